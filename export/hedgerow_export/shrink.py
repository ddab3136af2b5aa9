"""Channels taken out of a graph: smaller tensors, and sizes in the graph that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export.channel_rules import trace
from hedgerow_export.errors import ChannelError
from hedgerow_export.groups import ChannelGroups, Keep, channel_groups, group_channels, open_graph
from hedgerow_export.metadata import read_layout, write_layout
from hedgerow_export.model_proto import parse_model, serialize_model
from hedgerow_export.resizing import Resizing, resize_node
from hedgerow_export.static_shapes import fold_shapes, infer_dims
from hedgerow_export.tracing import Tracer

if TYPE_CHECKING:
    import onnx


def shrink_model(model: bytes, keep: Keep) -> bytes:
    """Take channels out of a model.

    Parameters
    ----------
    model : bytes
        A template or filled model.
    keep : Mapping[str, ndarray]
        For a group's id (`channel_groups`), bool of shape ``(size,)``: True where a channel is kept. A group
        that is not named keeps all.

    Returns
    -------
    bytes
        A model with smaller tensors of the same names, with a layout of its own where `model` has one. It
        computes what `model` computes when all weights of the removed channels are zero.

    Raises
    ------
    ChannelError
        A mask fits no group, or takes all of its channels.
    ModelError
        The bytes are no model.
    """
    folded = fold_shapes(open_graph(model))
    layout = read_layout(folded)
    tracer = trace(folded)
    groups = group_channels(tracer, layout)
    groups.check(keep)
    resizing = Resizing(folded, tracer, _removed(tracer, groups, keep))
    _cut_tensors(folded, tracer, resizing)
    for node in folded.graph.node:
        resize_node(resizing, node)
    resizing.add_constants()
    if layout is not None:
        write_layout(folded, _smaller(layout, folded))
    _check_outputs(folded, tracer)
    return serialize_model(folded)


def empty_channels(weights: Mapping[str, NDArray[np.float32]], groups: ChannelGroups) -> Keep:
    """Find the channels that nothing reads: all weights of their columns are zero.

    Such a channel can be removed whatever its bias or norm makes of it. One whose rows are zero may still
    carry a constant to the next layer; `compact_model` folds that where it can.

    Parameters
    ----------
    weights : Mapping[str, ndarray]
        By name, such as ``layout.split(flat)``.
    groups : ChannelGroups

    Returns
    -------
    Mapping[str, ndarray]
        Masks for `shrink_model`: only groups that lose something; one channel is always kept.
    """
    keep: dict[str, NDArray[np.bool_]] = {}
    for group in groups.groups:
        columns = [member.rows(weights[member.tensor]) for member in group.members if member.role == "in"]
        if not columns:
            continue
        read = np.logical_or.reduce([(rows != 0).any(axis=1) for rows in columns])
        if not read.any():
            read[0] = True
        if not read.all():
            keep[group.id] = read
    return keep


def compact_model(model: bytes, *, inputs: NDArray[Any] | None = None) -> bytes:
    """Take out every channel that the zeros of an unstructured mask have left without effect.

    Constants that cut-off channels carry to later layers are folded into biases where that is exact. One
    removed channel can leave others empty, so this goes on until nothing is left to remove.

    Parameters
    ----------
    model : bytes
        A filled template.
    inputs : ndarray, shape (n, ...), optional
        Real inputs, to see what is constant on; a few are enough. By default random ones.

    Raises
    ------
    ModelError
        The bytes are no model.
    """
    from hedgerow_export.constant_channels import fold_constant_channels

    while True:
        model = fold_constant_channels(model, inputs=inputs)
        proto = parse_model(model)
        keep = empty_channels(tensor_values(proto), channel_groups(proto))
        if not keep:
            return model
        model = shrink_model(model, keep)


def tensor_values(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the float32 initialisers of a model by name."""
    import onnx
    from onnx import numpy_helper

    return {
        tensor.name: np.asarray(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _removed(tracer: Tracer, groups: ChannelGroups, keep: Keep) -> frozenset[int]:
    """Return the roots of all atoms that go."""
    removed: set[int] = set()
    for key, mask in keep.items():
        member = groups[key].members[0]
        atoms = tracer.weights[member.tensor, member.axis][member.indices[~mask, 0]]
        removed.update(tracer.roots(atoms).tolist())
    return frozenset(removed)


def _cut_tensors(model: onnx.ModelProto, tracer: Tracer, resizing: Resizing) -> None:
    from onnx import numpy_helper

    axes: dict[str, list[int]] = {}
    for tensor, axis in tracer.weights:
        axes.setdefault(tensor, []).append(axis)
    for held in model.graph.initializer:
        kept = {axis: resizing.kept(tracer.weights[held.name, axis]) for axis in axes.get(held.name, ())}
        if all(mask.all() for mask in kept.values()):
            continue
        value = numpy_helper.to_array(held)
        for axis, mask in kept.items():
            value = np.compress(mask, value, axis=axis)
        held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), held.name))


def _smaller(layout: Layout, model: onnx.ModelProto) -> Layout:
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return Layout(
        tensors=tuple(
            TensorSpec(name=spec.name, shape=dims[spec.name], kind=spec.kind, prunable=spec.prunable)
            for spec in layout.tensors
        )
    )


def _check_outputs(model: onnx.ModelProto, tracer: Tracer) -> None:
    """Infer the shapes anew; every output must keep its own."""
    dims = infer_dims(model)
    for value in model.graph.output:
        wanted, got = tracer.dims.get(value.name), dims.get(value.name)
        if wanted is not None and wanted != got:
            raise ChannelError(
                f"with fewer channels the model's output {value.name!r} would have shape {got}, not {wanted}"
            )
