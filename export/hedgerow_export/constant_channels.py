"""Channels that are the same for every input: what they add to the next layer goes into its bias.

A channel whose rows are all zero is not nothing: its bias, its norm's shift and its activation still make a
constant of it. Without padding that constant adds a constant to every output of the next layer. With padding
it does not (the border sees less of it), so such a channel is left as it is, unless the constant is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.channel_rules import trace
from hedgerow_export.errors import VerificationError
from hedgerow_export.groups import ChannelGroup, group_channels, open_graph
from hedgerow_export.metadata import read_layout
from hedgerow_export.model_proto import serialize_model
from hedgerow_export.probing import values_inside
from hedgerow_export.runner import Runner
from hedgerow_export.static_shapes import attributes, fold_shapes, unused
from hedgerow_export.tracing import Tracer
from hedgerow_export.verification import sample_inputs

if TYPE_CHECKING:
    import onnx

_ROWS = 8
_TOLERANCE = 1e-6
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """A node that reads channels with columns of a weight."""

    node: onnx.NodeProto
    value: str
    axis: int
    weight: str
    columns: int


def fold_constant_channels(model: bytes, *, inputs: NDArray[Any] | None = None) -> bytes:
    """Move what constant channels add to later layers into biases, and make their columns zero.

    Parameters
    ----------
    model : bytes
        A filled model with zeros where its mask has taken weights away.
    inputs : ndarray, shape (n, ...), optional
        What is the same for some of these is taken to be constant; by default random numbers.

    Returns
    -------
    bytes
        A model that computes the same; its constant channels are read by nobody, as far as that is exact.

    Raises
    ------
    ModelError
        The bytes are no model, or one that cannot be run.
    """
    proto = fold_shapes(open_graph(model))
    tracer = trace(proto)
    weights = _weights(proto)
    groups = group_channels(tracer, read_layout(proto))
    constant = {group.id: _rows_are_zero(group, weights) for group in groups.groups}
    waiting = [group for group in groups.groups if constant[group.id].any()]
    try:
        rows = _rows(Runner(model), inputs) if waiting else np.empty(0)
    except VerificationError:  # inputs of unknown size: there is nothing to run it on
        return model
    if not waiting:
        return model
    readers = _readers(proto, tracer)
    seen = values_inside(proto, {entry.value for entry in readers}, rows)
    changed = False
    for group in waiting:
        for channel in np.flatnonzero(constant[group.id]):
            changed |= _fold(proto, group, int(channel), readers=readers, seen=seen, weights=weights)
    if not changed:
        return model
    _write(proto, weights)
    return serialize_model(proto)


def _fold(
    proto: onnx.ModelProto,
    group: ChannelGroup,
    channel: int,
    *,
    readers: list[_Reader],
    seen: Mapping[str, NDArray[Any]],
    weights: Weights,
) -> bool:
    """Fold one channel into all layers that read it, or into none; tell whether anything was folded."""
    steps: list[tuple[_Reader, NDArray[np.int64], NDArray[np.float32]]] = []
    for member in (member for member in group.members if member.role == "in"):
        columns = member.indices[channel]
        if not np.take(weights[member.tensor], columns, axis=member.axis).any():
            continue
        own = [e for e in readers if e.weight == member.tensor and e.columns == member.axis]
        if len(own) != 1 or own[0].value not in seen:
            return False
        values = _constants(np.take(seen[own[0].value], columns, axis=own[0].axis), own[0].axis)
        if values is None or not (_is_plain(own[0].node) or not values.any()):
            return False
        if values.any() and _bias(proto, own[0], weights, make=False) is None:
            return False
        steps.append((own[0], columns, values))
    for reader, columns, values in steps:
        weight = np.moveaxis(weights[reader.weight], reader.columns, 0)
        if values.any():
            taken = weight[columns].reshape(len(columns), weight.shape[1], -1).sum(axis=2)
            name = _bias(proto, reader, weights, make=True)
            assert name is not None
            weights[name] = weights[name] + values @ taken
        weight[columns] = 0
    return bool(steps)


def _rows(runner: Runner, inputs: NDArray[Any] | None) -> NDArray[Any]:
    """Return a few inputs, spread over the given ones: neighbours may be much alike."""
    if inputs is None:
        return sample_inputs(runner, rows=_ROWS)
    places = np.linspace(0, len(inputs) - 1, min(_ROWS, len(inputs))).astype(np.int64)
    return np.ascontiguousarray(inputs[places], runner.input.dtype)


def _rows_are_zero(group: ChannelGroup, weights: Weights) -> NDArray[np.bool_]:
    makers = [member.rows(weights[member.tensor]) for member in group.members if member.role == "out"]
    if not makers:
        return np.zeros(group.size, np.bool_)
    made: NDArray[np.bool_] = np.logical_or.reduce([(rows != 0).any(axis=1) for rows in makers])
    return ~made


def _constants(values: NDArray[Any], axis: int) -> NDArray[np.float32] | None:
    """Return one number for each index along the axis; None where one is not the same everywhere."""
    table = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    first = table[:, 0]
    if (np.abs(table - first[:, None]) > _TOLERANCE * np.maximum(1, np.abs(first[:, None]))).any():
        return None
    return first.astype(np.float32)


def _readers(proto: onnx.ModelProto, tracer: Tracer) -> list[_Reader]:
    found = []
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in tracer.views:
            continue
        held, view = tracer.channels.get(node.input[0]), tracer.views[node.input[1]]
        if held is None or len(view.axes) < 2:
            continue
        if node.op_type == "Conv":
            columns = view.axes[1]
        elif node.op_type == "Gemm":
            columns = view.axes[1 if attributes(node).get("transB", 0) else 0]
        else:
            columns = view.axes[0]
        if columns is not None:
            found.append(
                _Reader(node=node, value=node.input[0], axis=held.axis, weight=view.tensor, columns=columns)
            )
    return found


def _is_plain(node: onnx.NodeProto) -> bool:
    """Tell whether a constant input gives a constant output: no padding, one group, no factors."""
    given = attributes(node)
    pads = given.get("pads", [])
    padded = isinstance(pads, list) and any(pads)
    factors = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0
    return (
        not padded
        and given.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and given.get("group", 1) == 1
        and (node.op_type != "Gemm" or not factors)
    )


def _bias(proto: onnx.ModelProto, reader: _Reader, weights: Weights, *, make: bool) -> str | None:
    """Return the bias of a layer, made where there is none; None for one that cannot be changed."""
    node = reader.node
    rows = weights[reader.weight].shape[1 - reader.columns]
    if node.op_type == "MatMul":
        after = [n for n in proto.graph.node if node.output[0] in n.input]
        if len(after) != 1 or after[0].op_type != "Add":
            return None
        names = [name for name in after[0].input if name != node.output[0]]
    elif len(node.input) > 2 and node.input[2]:
        names = [node.input[2]]
    else:
        name = unused(f"{node.output[0]}_bias", set(weights))
        if make:
            weights[name] = np.zeros(rows, np.float32)
            del node.input[2:]
            node.input.append(name)
        return name
    own = [name for name in names if name in weights and weights[name].shape == (rows,)]
    # A bias of two layers cannot be right for both.
    if len(own) != 1 or sum(own[0] in other.input for other in proto.graph.node) != 1:
        return None
    return str(own[0])


def _weights(proto: onnx.ModelProto) -> Weights:
    from hedgerow_export.shrink import tensor_values

    return {name: value.copy() for name, value in tensor_values(proto).items()}


def _write(proto: onnx.ModelProto, weights: Weights) -> None:
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, value in weights.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        if name in held:
            held[name].CopyFrom(tensor)
        else:
            proto.graph.initializer.append(tensor)
