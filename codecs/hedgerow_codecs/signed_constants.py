"""Weights that stay as they were drawn: a constant for each layer, with signs from a seed.

Isik et al. 2023 ("FedPM") train which of these weights a network has, and not their values. The constant is
that of the method's released code, ``e / sqrt(fan_in)``: large enough for a network that keeps half of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.seeded import fan_of, seeded_parameters

SAMPLED_KINDS = ("conv", "linear", "recurrent", "bias")


def signed_constants(layout: Layout, *, seed: int) -> NDArray[np.float32]:
    """Draw a model's frozen weights: ``e / sqrt(fan_in)`` with the signs of `seeded_parameters`.

    Norms are 1 and 0. The same bits on every machine.

    Parameters
    ----------
    layout : Layout
        Of convolution, linear and recurrent layers, biases and norms.
    seed : int
        0 to 2**64 - 1 inclusive.

    Returns
    -------
    ndarray, float32, shape (num_parameters,)

    Raises
    ------
    LayoutError
        Another tensor, such as an embedding or running statistics.

    Examples
    --------
    >>> from hedgerow_codecs import TensorSpec
    >>> layout = Layout(tensors=(TensorSpec(name="a.weight", shape=(1, 4), kind="linear", prunable=True),))
    >>> abs(signed_constants(layout, seed=7))
    array([1.3591409, 1.3591409, 1.3591409, 1.3591409], dtype=float32)
    """
    check_sampled(layout)
    flat = seeded_parameters(layout, seed=seed)
    tensors = {tensor.name: tensor for tensor in layout.tensors}
    for tensor, start in zip(layout.tensors, layout.offsets, strict=False):
        if tensor.kind in SAMPLED_KINDS:
            part = flat[start : start + tensor.size]
            constant = np.float32(math.e / math.sqrt(fan_of(tensor, tensors)))
            part[:] = np.where(part < 0, -constant, constant)
    return flat


def sampled_entries(layout: Layout) -> NDArray[np.bool_]:
    """Return which parameters a network may have or not have, ``(num_parameters,)``: all but norms."""
    kinds = [tensor.kind in SAMPLED_KINDS for tensor in layout.tensors]
    return np.repeat(np.array(kinds, np.bool_), [tensor.size for tensor in layout.tensors])


def check_sampled(layout: Layout) -> None:
    """Raise `LayoutError` for a tensor that is neither sampled nor the scale or shift of a norm."""
    for tensor in layout.tensors:
        if tensor.kind not in (*SAMPLED_KINDS, "norm"):
            raise LayoutError(
                f"tensor {tensor.name!r} of kind {tensor.kind!r} can be neither frozen nor sampled: "
                "use group or layer norms without running statistics, and no embeddings",
                tensor=tensor.name,
            )
