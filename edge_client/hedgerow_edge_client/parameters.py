"""A torch module as a layout and a flat vector: its tensors, their kinds, and which may be pruned."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from hedgerow_codecs import Layout, LayoutError, TensorSpec
from hedgerow_edge_client.errors import TaskError

_PRUNABLE_KINDS = ("conv", "linear", "recurrent", "other")
# Norms that are no part of torch are known by their names: RMSNorm, FrozenBatchNorm2d, LayerNorm2d.
_NORM_NAME = re.compile(r"Norm(\dd)?$")


@dataclass(frozen=True, slots=True)
class _Held:
    """A float tensor of a module: its first name, the modules that hold it, its role in the first."""

    name: str
    tensor: torch.Tensor
    owners: list[nn.Module]
    kind: str


def module_layout(module: nn.Module, *, protect: Sequence[str] = ()) -> Layout:
    """Return the layout of a module's parameters and running statistics.

    A mask may take entries of convolutions, linear and recurrent weights and other tensors of two or more
    dimensions; not of the first convolution of a net that begins with one, the last linear layer, embeddings,
    biases, norms and buffers. Tensors that are shared are one tensor, under their first name. Counters
    (integer buffers) are left out, and buffers that the state dict leaves out.

    Parameters
    ----------
    module
        With float32 tensors on the CPU.
    protect
        Names of more tensors that no mask may touch.

    Returns
    -------
    Layout
        In the order of the state dict.

    Raises
    ------
    TaskError
        A tensor that is not float32, not on the CPU, lazy or empty; an unknown name in `protect`.
    """
    tensors = _held_tensors(module)
    _check_protect(protect, module, tensors)
    kept = _kept_dense(module)
    protected = {tensor.data_ptr() for name, tensor in module.state_dict().items() if name in set(protect)}
    specs = []
    for held in tensors:
        prunable = (
            held.kind in _PRUNABLE_KINDS
            and held.tensor.ndim >= 2
            and not any(owner in kept or isinstance(owner, _EMBEDDINGS) for owner in held.owners)
            and held.tensor.data_ptr() not in protected
        )
        shape = tuple(held.tensor.shape)
        try:
            specs.append(TensorSpec(name=held.name, shape=shape, kind=held.kind, prunable=prunable))
        except LayoutError as error:
            raise TaskError(f"the model cannot be used: {error}") from error
    if not specs:
        raise TaskError("the model has no parameters, so there is nothing to train")
    return Layout(tensors=tuple(specs))


def read_parameters(module: nn.Module, layout: Layout) -> NDArray[np.float32]:
    """Return the module's tensors as a new flat vector, float32, shape ``(num_parameters,)``.

    Raises
    ------
    LayoutError
        The module's tensors are not those of the layout.
    """
    found = {held.name: held.tensor.detach().numpy() for held in _held_tensors(module)}
    return layout.join(found)


def write_parameters(module: nn.Module, layout: Layout, flat: NDArray[np.float32]) -> None:
    """Put a flat vector's values into the module's tensors.

    Raises
    ------
    LayoutError
        The module's tensors are not those of the layout, or `flat` has another length.
    """
    found = {held.name: held.tensor for held in _held_tensors(module)}
    parts = layout.split(flat)
    if parts.keys() != found.keys():
        name = min(parts.keys() ^ found.keys())
        raise LayoutError(f"tensor {name!r} is in only one of module and layout", tensor=name)
    with torch.no_grad():
        for name, part in parts.items():
            if tuple(found[name].shape) != part.shape:
                raise LayoutError(
                    f"tensor {name!r} has shape {tuple(found[name].shape)} in the module, "
                    f"{part.shape} in the layout",
                    tensor=name,
                )
            # A copy, because torch takes no read-only memory.
            values = part.copy()
            if name.rpartition(".")[2] == "running_var":
                # A lossy codec may leave a small variance below zero, of which there is no square root.
                np.maximum(values, 0, out=values)
            found[name].copy_(torch.from_numpy(values))


def _held_tensors(module: nn.Module) -> list[_Held]:
    """Return the float tensors of the state dict, each once, in its order."""
    found: dict[int, _Held] = {}
    lasting = module.state_dict(keep_vars=True).keys()
    for owner_name, owner in module.named_modules():
        for name, tensor, is_buffer in _own_tensors(owner):
            full = f"{owner_name}.{name}" if owner_name else name
            if id(tensor) in found:
                found[id(tensor)].owners.append(owner)
                continue
            if is_buffer and (full not in lasting or not tensor.is_floating_point()):
                continue
            _check_tensor(full, tensor)
            kind = "buffer" if is_buffer else _kind(owner, tensor)
            found[id(tensor)] = _Held(full, tensor, [owner], kind)
    return list(found.values())


def _own_tensors(owner: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    for name, parameter in owner.named_parameters(recurse=False):
        yield name, parameter, False
    for name, buffer in owner.named_buffers(recurse=False):
        yield name, buffer, True


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise TaskError(f"tensor '{name}' belongs to a lazy layer: give the layer its input size")
    if tensor.dtype != torch.float32:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise TaskError(
            f"tensor '{name}' is {kind}, and Hedgerow trains float32: call .float() on it in build_model"
        )
    if tensor.device.type != "cpu":
        raise TaskError(
            f"tensor '{name}' is on '{tensor.device}', and Hedgerow trains on the CPU: "
            "let build_model leave the model there"
        )
    if tensor.numel() == 0:
        raise TaskError(f"tensor '{name}' is empty (shape {tuple(tensor.shape)}): take it out of the model")


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_CONVOLUTIONS = nn.modules.conv._ConvNd


def _kind(owner: nn.Module, tensor: torch.Tensor) -> str:
    if isinstance(owner, _RECURRENT):
        return "recurrent"
    if isinstance(owner, _EMBEDDINGS):
        return "embedding"
    if _NORM_NAME.search(type(owner).__name__):
        return "norm"
    is_bias = tensor.ndim == 1 and any(p is tensor for n, p in owner.named_parameters() if "bias" in n)
    if is_bias:
        return "bias"
    if isinstance(owner, _CONVOLUTIONS):
        return "conv"
    if isinstance(owner, nn.Linear):
        return "linear"
    return "other"


def _kept_dense(module: nn.Module) -> set[nn.Module]:
    """Return the layers that no mask touches: the first one if it is a convolution, and the classifier.

    Pruning these few weights costs more accuracy than it saves bytes.
    """
    layers = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    layers = [m for m in layers if not _NORM_NAME.search(type(m).__name__)]
    kept: set[nn.Module] = set()
    if layers and isinstance(layers[0], _CONVOLUTIONS):
        kept.add(layers[0])
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    kept.update(linear[-1:])
    return kept


def _check_protect(protect: Sequence[str], module: nn.Module, tensors: list[_Held]) -> None:
    known = {held.name for held in tensors}
    # A shared tensor may be protected under any of its names.
    known |= {name for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    for name in protect:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise TaskError(
                f"'protect' names '{name}', which is no tensor of the model: did you mean '{close[0]}'?"
                if close
                else f"'protect' names '{name}', and the model has no tensors"
            )
