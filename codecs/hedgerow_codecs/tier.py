"""Tiers: nested parts of a model for devices of different strength, the same at both ends without a word."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.mask import Mask


def tier_mask(
    flat: NDArray[np.float32],
    *,
    mask: Mask,
    share: float,
    protect: Collection[str] = (),
    origin: NDArray[np.float32] | None = None,
) -> Mask:
    """Return the mask of the strongest `share` of each prunable tensor's live weights.

    The masks of smaller shares lie inside those of larger ones. Both ends hold the same published weights, so
    they find the same tier, and nothing is sent for it.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        The published weights, without NaN.
    mask : Mask
        The shared mask.
    share : float
        In (0, 1]. A tensor keeps ``ceil(share * live)`` weights, of equal magnitudes those of lower index.
    protect : collection of str
        Tensors that every tier has whole, beside those that are not prunable.
    origin : ndarray, float32, shape (num_parameters,), optional
        Where given, the strongest are those that are farthest from these weights; as long as none has moved,
        the largest.

    Examples
    --------
    >>> from hedgerow_codecs import Layout, TensorSpec
    >>> layout = Layout(tensors=(TensorSpec(name="w", shape=(4,), kind="linear", prunable=True),))
    >>> tier_mask(np.array([1, -4, 3, 2], np.float32), mask=Mask.dense(layout), share=0.5).live
    array([False,  True,  True, False])
    >>> origin = np.array([1, -4, 2, 0], np.float32)
    >>> tier_mask(np.array([1, -4, 3, 2], np.float32), mask=Mask.dense(layout), share=0.5, origin=origin).live
    array([False, False,  True,  True])
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if share == 1:
        return mask
    # Just above a whole number by rounding alone is that number.
    counts = [
        math.ceil(share * live - 1e-9) if tensor.prunable and tensor.name not in protect else live
        for tensor, live in zip(mask.layout.tensors, mask.lengths, strict=True)
    ]
    if origin is not None:
        mask.layout.check_flat(origin)
        moved = flat - origin
        flat = moved if moved[mask.live].any() else flat
    return counted_mask(flat, mask=mask, counts=counts)


def counted_mask(flat: NDArray[np.float32], *, mask: Mask, counts: Sequence[int]) -> Mask:
    """Return the mask of each tensor's strongest live weights, in given numbers, the same at both ends.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        The published weights, without NaN.
    mask : Mask
        The shared mask.
    counts : sequence of int
        For each tensor, at least 0; of equal magnitudes those of lower index stay. Tensors that are not
        prunable are whole.

    Raises
    ------
    ValueError
        There is not one count for each tensor, or one is negative.
    """
    mask.layout.check_flat(flat)
    if len(counts) != len(mask.layout.tensors) or min(counts, default=0) < 0:
        raise ValueError(f"{len(counts)} counts for {len(mask.layout.tensors)} tensors, or a negative one")
    live = mask.live.copy()
    for tensor, start, count in zip(mask.layout.tensors, mask.layout.offsets, counts, strict=False):
        if not tensor.prunable:
            continue
        part = live[start : start + tensor.size]
        places = np.flatnonzero(part)
        strongest = np.argsort(-np.abs(flat[start : start + tensor.size][places]), kind="stable")
        part[places[strongest[count:]]] = False
    return Mask(layout=mask.layout, live=live)
