"""Masks that the devices try before training; the one with the smallest loss is the first (FedTiny, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask, block_of, candidate_counts, counted_mask
from hedgerow_coordinator.errors import PruningError

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.policy import PruningPolicy


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
    counts = candidate_counts(
        mask.layout, number=policy.candidates, density=policy.density, seed=seed, protect=policy.protect
    )
    sentence = (
        f"candidate {best + 1} of {len(losses)} has the smallest mean loss, {losses[best]:.4f}; "
        f"the largest is {losses.max():.4f}"
    )
    return counted_mask(published, mask=mask, counts=counts[best]), sentence


def block_at(policy: PruningPolicy, round_number: int) -> int:
    """Return which block a change before a round is about: they take turns, from the last to the first."""
    return -1 - max(round_number - policy.start_round, 0) // policy.every


def open_tensors(layout: Layout, *, policy: PruningPolicy, round_number: int) -> tuple[str, ...]:
    """Return the tensors that a swap before a round is about: a block's, or all that are pruned."""
    block = block_at(policy, round_number)
    return block_of(layout, block=block, blocks=policy.blocks, protect=policy.protect)
