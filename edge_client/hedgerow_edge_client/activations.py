"""Activations that are thinned out for the way back: the strongest make the gradient of a layer's weights.

The forward pass is as always, and so is the gradient that goes on to the layers before; a layer keeps the
strongest part of its input for the gradient of its weights (Raihan & Aamodt 2020, "SWAT"; Guastella 2025,
"SparsyFed"; Huang 2024, "FedMef"). That takes less memory as long as no other layer keeps the same tensor: a
ReLU keeps its output, which is the input of the layer behind it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Above this share a value and its place take more room than the value alone.
_PLACES_PAY = 0.5


@contextlib.contextmanager
def thinned_activations(module: nn.Module, share: float) -> Iterator[None]:
    """Thin the inputs of linear and convolution layers out, for forward passes in this block.

    Parameters
    ----------
    module
        The model.
    share
        Of each input tensor's entries that are kept, 0 to 1; 1 is plain training, 0 the share of the layer's
        weights that are not zero.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)] if share < 1 else []
    for layer in layers:
        object.__setattr__(layer, "forward", _forward_of(layer, layer.forward, share=share))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "forward")


def _forward_of(
    layer: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], *, share: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    def thinned(inputs: torch.Tensor) -> torch.Tensor:
        kept = share or _density(layer)
        if kept >= 1 or not inputs.is_floating_point():
            return forward(inputs)

        def pack(saved: torch.Tensor) -> Any:
            # The weight is saved as well, for the gradient of the input.
            is_input = saved.data_ptr() == inputs.data_ptr() and saved.numel() == inputs.numel()
            return _Thinned(saved, share=kept) if is_input else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpacked):
            return forward(inputs)

    return thinned


class _Thinned:
    """The entries of a tensor with the largest magnitudes."""

    def __init__(self, tensor: torch.Tensor, *, share: float) -> None:
        flat = tensor.detach().reshape(-1)
        count = max(1, math.ceil(share * flat.numel() - 1e-9))
        places = flat.abs().topk(count, sorted=False).indices
        self._shape = tensor.shape
        self._places: torch.Tensor | None = places.to(torch.int32)
        self._values = flat[places]
        if share > _PLACES_PAY:
            self._values, self._places = self.dense().reshape(-1), None

    def dense(self) -> torch.Tensor:
        if self._places is None:
            return self._values.reshape(self._shape)
        flat = self._values.new_zeros(self._shape.numel())
        flat[self._places.long()] = self._values
        return flat.reshape(self._shape)


def _unpacked(saved: Any) -> torch.Tensor:
    return saved.dense() if isinstance(saved, _Thinned) else saved


def _density(layer: nn.Module) -> float:
    weight = layer.get_parameter("weight").detach()
    return int(torch.count_nonzero(weight)) / weight.numel()
