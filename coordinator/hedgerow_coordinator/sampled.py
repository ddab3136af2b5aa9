"""Probabilities in place of weights (Isik et al. 2023, "FedPM"): what a round of sampled masks makes of them.

In a run with the policy ``sampled`` the model's vector holds the probability of each weight to be in the
network. The weights themselves stay as they were drawn from the run's seed, at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask, sampled_entries, signed_constants
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.moving_average import served_weights
from hedgerow_coordinator.plan import Plan

Memory = Mapping[str, NDArray[np.generic]]
_ONES, _MASKS = "sampled-ones", "sampled-masks"
# As the released code: no weight is decided for ever.
LEAST = 0.01


def first_probabilities(layout: Layout) -> NDArray[np.float32]:
    """Return the probabilities that a run begins with: a half, and 1 for norms.

    Raises
    ------
    hedgerow_codecs.LayoutError
        The model has a tensor that can be neither frozen nor sampled.
    """
    return np.where(sampled_entries(layout), np.float32(0.5), np.float32(1.0)).astype(np.float32)


def posterior(
    share: NDArray[np.float64], *, count: int, memory: Memory, begins: bool
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.generic]]]:
    """Return the mode of the weights' Beta posteriors, and what is remembered for the next round.

    The prior is Beta(1, 1), so that the mode is the share of ones among all masks since the prior was set.

    Parameters
    ----------
    share : ndarray, float64, shape (num_parameters,)
        Of the round's masks that have each weight, 0 to 1.
    count : int
        How many masks there are.
    memory : Mapping
        What was remembered.
    begins : bool
        Whether the prior is set anew before this round.
    """
    ones, masks = share * count, float(count)
    if not begins and _ONES in memory:
        ones = ones + memory[_ONES].astype(np.float64)
        masks += float(memory[_MASKS][0])
    kept: dict[str, NDArray[np.generic]] = {
        _ONES: ones.astype(np.float32),
        _MASKS: np.array([masks], np.float32),
    }
    return (LEAST + (1 - 2 * LEAST) * ones / masks).astype(np.float32), kept


def network_of(state: ServerState, plan: Plan) -> ServerState:
    """Return a version as it is measured and exported: itself, or its moving average where a plan has one.

    With the policy ``sampled`` the network has the weights whose probability is at least a half, the
    likeliest of all networks.
    """
    if plan.pruning.policy != "sampled":
        served = served_weights(state)
        return state if served is state.weights else replace(state, weights=served)
    layout = state.mask.layout
    has = state.weights >= 0.5
    weights = np.where(has, signed_constants(layout, seed=plan.run.seed), np.float32(0))
    mask = Mask(layout=layout, live=has | ~layout.prunable())
    return replace(state, mask=mask, weights=weights, published=weights)
