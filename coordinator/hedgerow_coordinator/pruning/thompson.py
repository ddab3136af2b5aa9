"""Masks by Thompson sampling: a Beta posterior for each weight, and the best of a draw (FedRTS, 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning.chance import beta_draws
from hedgerow_coordinator.pruning.selection import largest

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.evidence import Evidence, Memory
    from hedgerow_coordinator.pruning.policy import PruningPolicy

Vector = NDArray[np.float32]
_ALPHA, _BETA = "alpha", "beta"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """What the devices of a round say of the weights; each vector is flat, ``(num_parameters,)``.

    Parameters
    ----------
    core : ndarray, float32
        Share of the devices' samples, 0 to 1, behind each live weight: those among whose strongest it is.
    wanted : ndarray, float32, or None
        The same for pruned weights that devices want; None where they were not asked or have not answered.
    """

    core: Vector = field(repr=False)
    wanted: Vector | None = field(default=None, repr=False)


def core_live(
    flat: NDArray[np.float32], *, mask: Mask, share: float, protect: tuple[str, ...] = ()
) -> NDArray[np.bool_]:
    """Mark the core of each tensor's live weights: all but the share with the smallest magnitudes.

    Equation 4 of the paper, with ``K - kappa`` the share of the live weights that changes at most, and not
    more than are pruned. Tensors that are not pruned are not marked.
    """
    core = np.zeros(mask.layout.num_parameters, np.bool_)
    for tensor, (start, end) in zip(mask.layout.tensors, pairwise(mask.layout.offsets), strict=True):
        if not tensor.prunable or tensor.name in protect:
            continue
        live = np.flatnonzero(mask.live[start:end])
        num_core = len(live) - open_places(len(live), tensor.size, share=share)
        core[start + live[largest(np.abs(flat[start:end][live]), num_core)]] = True
    return core


def open_places(num_live: int, size: int, *, share: float) -> int:
    """Return how many weights of a tensor a change may swap."""
    return min(int(share * num_live), size - num_live)


def learned(
    memory: Memory, outcomes: Outcomes, *, weights: Vector, mask: Mask, policy: PruningPolicy, share: float
) -> dict[str, NDArray[np.generic]]:
    """Return the memory with the posteriors after a round: equations 3 to 6 of the paper.

    An outcome X is `PruningPolicy.fusion` times that of the mean model, and for the rest that of the devices;
    then ``alpha + scale X`` and ``beta + scale (1 - X)``. The mean model says 1/2 of pruned weights.
    """
    layout = mask.layout
    ones = np.ones(layout.num_parameters, np.float32)
    alpha, beta = memory.get(_ALPHA, ones).astype(np.float32), memory.get(_BETA, ones).astype(np.float32)
    is_arm = np.zeros(layout.num_parameters, np.bool_)
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        is_arm[start:end] = tensor.prunable and tensor.name not in policy.protect
    together = core_live(weights, mask=mask, share=share, protect=policy.protect).astype(np.float32)
    fusion, scale = np.float32(policy.fusion), np.float32(policy.influence)
    outcome = fusion * together + (np.float32(1) - fusion) * outcomes.core
    seen = is_arm & mask.live
    if outcomes.wanted is not None:
        behind = fusion * np.float32(0.5) + (np.float32(1) - fusion) * outcomes.wanted
        outcome = np.where(mask.live, outcome, behind)
        seen = is_arm
    alpha = np.where(seen, alpha + scale * outcome, alpha)
    beta = np.where(seen, beta + scale * (np.float32(1) - outcome), beta)
    return {**memory, _ALPHA: alpha, _BETA: beta}


def sampled(known: Evidence, *, policy: PruningPolicy) -> Mask:
    """Return the mask of the best of one draw from the posteriors; each tensor keeps its number of weights.

    Raises
    ------
    PruningError
        Nothing is known of the weights yet.
    """
    mask, memory = known.mask, known.memory
    if _ALPHA not in memory:
        raise PruningError("no device has said yet which weights are its strongest")
    draws = beta_draws(memory[_ALPHA].astype(np.float64), memory[_BETA].astype(np.float64), seed=known.seed)
    live = mask.live.copy()
    for tensor, num_live, (start, end) in zip(
        mask.layout.tensors, mask.lengths, pairwise(mask.layout.offsets), strict=True
    ):
        if tensor.prunable and tensor.name not in policy.protect:
            live[start:end] = largest(draws[start:end], num_live)
    return mask if np.array_equal(live, mask.live) else Mask(layout=mask.layout, live=live)
