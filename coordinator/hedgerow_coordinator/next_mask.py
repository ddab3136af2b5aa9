"""After a round: what is known of the weights, the next mask, and what pruning remembers until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning import Evidence, PruningPolicy, prune, softened

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """What a round has brought for pruning.

    Parameters
    ----------
    number : int
        The round that trained, from 1.
    state : ServerState
        The version that it trained on.
    mask : Mask
        What the mean is of.
    weights : ndarray, float32, shape (num_parameters,)
        After the mean.
    update : ndarray, float32, shape (num_parameters,)
        The mean update.
    scores, votes : ndarray, float32, shape (num_parameters,), or None
        What the devices have said besides.
    """

    number: int
    state: ServerState
    mask: Mask
    weights: Vector = field(repr=False)
    update: Vector = field(repr=False)
    scores: Vector | None = field(default=None, repr=False)
    votes: Vector | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """The next version's mask and weights, what is remembered, and what a reader of the journal is told."""

    mask: Mask
    weights: Vector = field(repr=False)
    memory: Mapping[str, NDArray[np.generic]] = field(repr=False)
    events: tuple[tuple[str, str], ...] = ()


def next_mask(
    done: Round,
    *,
    policy: PruningPolicy,
    seed: int,
    first_weights: Callable[[], Vector],
    flow: Callable[[Vector], Vector] | None = None,
) -> Pruned:
    """Make the mask and the weights that the next round begins with.

    A round in which what a score needs has not come leaves the mask as it is, with an event that says so.

    Parameters
    ----------
    done : Round
    policy : PruningPolicy
    seed : int
        The run's.
    first_weights : callable
        Returns the weights of version 0, for `PruningPolicy.rewind`.
    flow : callable or None
        See `Evidence`.
    """
    memory = _remembered(done, policy=policy)
    following, weights = done.number + 1, done.weights
    if policy.policy == "soft":
        if following == policy.start_round:
            weights = softened(weights, done.mask.layout, alpha=policy.threshold)
        return Pruned(mask=done.mask, weights=weights, memory=memory)
    evidence = Evidence(
        weights=weights,
        mask=done.mask,
        update=done.update,
        movement=memory.get("movement"),
        device=done.scores,
        votes=done.votes,
        round=following,
        seed=_mixed(seed, following),
        flow=flow,
    )
    try:
        mask = prune(weights, mask=done.mask, policy=policy, round=following, evidence=evidence)
    except PruningError as error:
        sentence = f"round {following} keeps the mask of round {done.number}: {error}"
        return Pruned(
            mask=done.state.mask, weights=weights, memory=memory, events=(("pruning skipped", sentence),)
        )
    if policy.rewind and mask.digest != done.state.mask.digest:
        weights = np.where(mask.live, first_weights(), np.float32(0))
    return Pruned(mask=mask, weights=weights, memory=memory)


def _remembered(done: Round, *, policy: PruningPolicy) -> dict[str, Vector]:
    """Return what scores need from one round to the next: the movement of each weight since it is live."""
    if policy.score != "movement" and policy.grow != "movement":
        return {}
    before = done.state.pruning.get("movement")
    moved = done.state.weights * done.update
    total = moved if before is None else before + moved
    return {"movement": np.where(done.mask.live, total, np.float32(0)).astype(np.float32)}


def _mixed(seed: int, round_number: int) -> int:
    """Return a seed of 64 bits that differs between rounds."""
    return (seed * 0x9E3779B97F4A7C15 + round_number) % (1 << 64)
