"""PruneFL's adaptive pruning: the set of weights that learns the most for its time (Jiang et al. 2022)."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.pruning.evidence import Evidence
from hedgerow_coordinator.pruning.policy import PruningPolicy
from hedgerow_coordinator.pruning.selection import largest

# Section IV-D of the paper: what share of the live weights may go, at first and how it halves.
FIRST_SHARE = 0.3
HALVES_AFTER = 10_000


def prunable_share(round_number: int) -> float:
    """Return which share of the live weights a round may prune: ``0.3 * 0.5 ** (t / 10000)``."""
    halvings: float = round_number / HALVES_AFTER
    return round(FIRST_SHARE * math.pow(0.5, halvings), 12)


def adaptive_live(
    scores: NDArray[np.float32], known: Evidence, *, policy: PruningPolicy
) -> NDArray[np.bool_]:
    """Return the live weights that gain the most for their time.

    The strongest live weights stay, and so do tensors that are not pruned; the weakest and all pruned ones
    are added by falling gain for their time, as long as that is at least the gain of the whole for its time.

    Parameters
    ----------
    scores : ndarray, float32, shape (num_parameters,)
        Mean squares of the gradient.
    known : Evidence
        Its mask says what is live.
    policy : PruningPolicy
        Gives the times.

    Returns
    -------
    ndarray, bool, shape (num_parameters,)
    """
    layout, live = known.mask.layout, known.mask.live
    open_to_change = _open(layout, protect=policy.protect)
    times, fixed = weight_times(layout, policy=policy)
    held = live & open_to_change
    num_held = int(np.count_nonzero(held))
    num_stay = num_held - int(prunable_share(known.round) * num_held)
    chosen = live & ~open_to_change
    places = np.flatnonzero(held)
    chosen[places[largest(np.abs(known.weights[places]), num_stay)]] = True
    places = np.flatnonzero(open_to_change & ~chosen)
    gain, cost = scores[places].astype(np.float64), times[places]
    order = np.argsort(-(gain / cost), kind="stable")
    # Running sums add one by one, in this order on every machine.
    gains = np.cumsum(np.concatenate([scores[chosen].astype(np.float64), gain[order]]))
    costs = np.cumsum(np.concatenate([[fixed], times[chosen], cost[order]]))[1:]
    settled = int(np.count_nonzero(chosen))
    # The gain for the time of what is chosen before each candidate; the first is taken where nothing is.
    before = np.divide(
        np.concatenate([[0.0], gains])[settled:-1],
        np.concatenate([[fixed], costs])[settled:-1],
        out=np.zeros(len(order)),
        where=np.concatenate([[fixed], costs])[settled:-1] > 0,
    )
    worth = gain[order] / cost[order] >= before
    taken = len(worth) if worth.all() else int(np.argmin(worth))
    chosen[places[order[:taken]]] = True
    return chosen


def weight_times(layout: Layout, *, policy: PruningPolicy) -> tuple[NDArray[np.float64], float]:
    """Return the cost of each weight, float64 ``(num_parameters,)``, and of a round besides."""
    given = {name: float(str(cost)) for name, cost in policy.times.items()}
    times = np.ones(layout.num_parameters, np.float64)
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        times[start:end] = given.get(tensor.name, 1.0)
    return times, given.get("fixed", 0.0)


def _open(layout: Layout, *, protect: tuple[str, ...]) -> NDArray[np.bool_]:
    is_open = layout.prunable()
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        if tensor.name in protect:
            is_open[start:end] = False
    return is_open
