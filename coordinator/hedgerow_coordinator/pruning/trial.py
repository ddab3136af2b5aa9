"""Masks that the devices try before training; the one with the smallest loss is the first (FedTiny, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask, counted_mask
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning.budget import Candidates, divide
from hedgerow_coordinator.pruning.chance import mixed

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.policy import PruningPolicy

# A candidate's tensors have up to half more or less of their size as their share of the weights.
_STEPS = 1024


def candidate_counts(layout: Layout, *, policy: PruningPolicy, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return how many weights each tensor keeps in each candidate; all have the policy's density.

    Huang et al. 2023 (FedTiny): coarse pruning at layer-wise rates with uniform noise. The first candidate
    has none.

    Parameters
    ----------
    layout : Layout
    policy : PruningPolicy
        Gives the number of candidates, the density and the protected tensors.
    seed : int
        The run's.
    """
    room = Candidates(layout=layout, protect=policy.protect)
    total, least = room.total(policy.density), room.floors()
    start = mixed(np.array([seed % (1 << 64)], np.uint64))
    found = []
    for number in range(policy.candidates):
        counters = np.arange(len(layout.tensors), dtype=np.uint64) + np.uint64(number << 32)
        noise = (mixed(start + counters) >> np.uint64(54)).astype(np.int64)
        factors = noise + _STEPS // 2 if number else np.full(len(layout.tensors), _STEPS)
        shares = [
            max(1, tensor.size * int(factor)) for tensor, factor in zip(layout.tensors, factors, strict=True)
        ]
        found.append(divide(total, shares=shares, least=least, most=room.available))
    return tuple(found)


def chosen(
    losses: NDArray[np.float32] | None,
    *,
    published: NDArray[np.float32],
    policy: PruningPolicy,
    mask: Mask,
    seed: int,
) -> tuple[Mask, str]:
    """Return the candidate with the smallest mean loss, and a sentence about it.

    Raises
    ------
    PruningError
        No losses have come.
    """
    if losses is None:
        raise PruningError("no device has said yet how the candidates do")
    best = int(np.argmin(losses))
    counts = candidate_counts(mask.layout, policy=policy, seed=seed)
    sentence = (
        f"candidate {best + 1} of {len(losses)} has the smallest mean loss, {losses[best]:.4f}; "
        f"the largest is {losses.max():.4f}"
    )
    return counted_mask(published, mask=mask, counts=counts[best]), sentence


def block_of(layout: Layout, *, policy: PruningPolicy, round_number: int) -> tuple[str, ...]:
    """Return the prunable tensors that a change before a round is about.

    With `PruningPolicy.blocks` they are cut into so many blocks, in the order of the layout, and the changes
    take turns from the last block to the first; else all of them.
    """
    names = [t.name for t in layout.tensors if t.prunable and t.name not in policy.protect]
    num_blocks = min(policy.blocks, len(names))
    if num_blocks <= 1:
        return tuple(names)
    change = max(round_number - policy.start_round, 0) // policy.every
    block = num_blocks - 1 - change % num_blocks
    return tuple(names[block * len(names) // num_blocks : (block + 1) * len(names) // num_blocks])
