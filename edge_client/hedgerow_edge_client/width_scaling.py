"""HeteroFL's scaler: outputs of layers that are cut down by width, brought to the size of the whole ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout
from hedgerow_edge_client.parameters import module_layout

_SCALED = (nn.Linear, nn.modules.conv._ConvNd)


@contextlib.contextmanager
def scaled_outputs(module: nn.Module, *, live: NDArray[np.bool_], width: float) -> Iterator[None]:
    """Divide what cut layers put out by the width, in training mode, within this block.

    A narrower layer sums fewer terms; the division keeps its outputs as large as those of the whole layer,
    with which its weights are averaged (Diao et al. 2021, section 3, "Scaler"). In evaluation mode nothing is
    scaled.

    Parameters
    ----------
    module
        The model; afterwards it is what it was.
    live
        What this device has, ``(num_parameters,)``. Linear and convolution layers with rows that are all dead
        are cut.
    width
        Share of the channels, in (0, 1]; 1 changes nothing.
    """
    cut, layout = set(), module_layout(module) if width < 1 else Layout(tensors=())
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        rows = live[start : start + spec.size].reshape(spec.shape[0] if spec.shape else 1, -1)
        if spec.kind in ("conv", "linear") and len(spec.shape) >= 2 and not rows.any(axis=1).all():
            cut.add(spec.name.rpartition(".")[0])
    layers = [layer for name, layer in module.named_modules() if name in cut and isinstance(layer, _SCALED)]

    def scale(layer: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        return output / width if layer.training else output

    hooks = [layer.register_forward_hook(scale) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
