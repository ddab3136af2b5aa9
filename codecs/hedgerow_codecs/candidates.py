"""Candidates for a mask, and blocks of tensors: both ends find the same from a few numbers."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from hedgerow_codecs.division import divide
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.splitmix import splitmix

_STEPS = 1024


def candidate_counts(
    layout: Layout, *, number: int, density: float, seed: int, protect: Collection[str] = ()
) -> tuple[tuple[int, ...], ...]:
    """Return how many weights each tensor keeps in each of some candidates for a mask.

    Huang et al. 2023 (FedTiny): coarse pruning at layer-wise rates with uniform noise. The first candidate
    has the same rate everywhere; the others' differ from it by up to a half, before they are brought to the
    sum. A tensor keeps one weight at least; those that are not pruned are whole.

    Parameters
    ----------
    layout : Layout
    number : int
        Of candidates.
    density : float
        Live weights over all parameters, rounded down, in (0, 1].
    seed : int
        0 to 2**64 - 1 inclusive.
    protect : collection of str
        Tensors that are not pruned, beside those that are not prunable.

    Raises
    ------
    ValueError
        The density is less than what the tensors keep at least.
    """
    sizes = [tensor.size for tensor in layout.tensors]
    fixed = [not tensor.prunable or tensor.name in protect for tensor in layout.tensors]
    least = [size if whole else min(1, size) for size, whole in zip(sizes, fixed, strict=True)]
    total = min(math.floor(density * layout.num_parameters + 1e-6), sum(sizes))
    if total < sum(least):
        raise ValueError(
            f"density {density:g} leaves {total} weights, and the tensors keep {sum(least)} at least"
        )
    found = []
    for index in range(number):
        words = splitmix(seed, start=index * len(sizes), count=len(sizes)) >> np.uint64(54)
        factors = [int(word) + _STEPS // 2 if index else _STEPS for word in words]
        shares = [max(1, size * factor) for size, factor in zip(sizes, factors, strict=True)]
        found.append(divide(total, shares=shares, least=least, most=sizes))
    return tuple(found)


def block_of(layout: Layout, *, block: int, blocks: int, protect: Collection[str] = ()) -> tuple[str, ...]:
    """Return the prunable tensors of one of some blocks, cut in the order of the layout.

    There are no more blocks than tensors; `block` counts from 0, around.

    Parameters
    ----------
    layout : Layout
    block, blocks : int
        Which one of how many; with 0 or 1 blocks it is all tensors.
    protect : collection of str
        Tensors that belong to none.
    """
    names = [t.name for t in layout.tensors if t.prunable and t.name not in protect]
    blocks = min(blocks, len(names))
    if blocks <= 1:
        return tuple(names)
    index = block % blocks
    return tuple(names[index * len(names) // blocks : (index + 1) * len(names) // blocks])
