"""A few numbers that belong to no parameter, such as losses, as a frame like any other."""

from __future__ import annotations

from hedgerow_codecs.layout import Layout, TensorSpec
from hedgerow_codecs.mask import Mask


def numbers_mask(count: int) -> Mask:
    """Return what so many numbers travel under: the dense mask of a layout with one tensor of that length.

    >>> numbers_mask(3).num_live
    3
    """
    spec = TensorSpec(name="numbers", shape=(count,), kind="other", prunable=False)
    return Mask.dense(Layout(tensors=(spec,)))
