"""A graph with its constants computed: weights in the form in which a quantiser finds them.

What comes out has fewer nodes and computes the same, but its tensors are no longer those of the layout: no
other weights can be put in. onnxruntime does the same when it loads a model, so float models gain nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.metadata import LAYOUT_KEY
from hedgerow_export.seal import SEAL_KEY
from hedgerow_export.static_shapes import attributes, evaluate_node, fold_shapes, remove_unread, unused

if TYPE_CHECKING:
    import onnx

_MOVES = "Cast Concat Expand Gather Identity Reshape Slice Squeeze Transpose Unsqueeze"


def fuse_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without a layout, with norms folded into convolutions and moved weights computed."""
    fused = fold_shapes(model)
    kept = [entry for entry in fused.metadata_props if entry.key not in (LAYOUT_KEY, SEAL_KEY)]
    del fused.metadata_props[:]
    fused.metadata_props.extend(kept)
    _move_weights(fused)
    _fold_norms(fused.graph)
    remove_unread(fused)
    return fused


def _move_weights(model: onnx.ModelProto) -> None:
    """Compute the nodes that only cut, join or turn constants."""
    from onnx import numpy_helper

    graph = model.graph
    values = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        known = all(name in values for name in node.input if name)
        value = None
        if known and node.op_type in _MOVES.split() and node.output[0] not in outputs:
            value = evaluate_node(node, values, model)
        if value is None:
            kept.append(node)
        else:
            values[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _fold_norms(graph: onnx.GraphProto) -> None:
    """Fold every batch norm that follows a convolution alone into the convolution's weights."""
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for value in graph.output:
        readers[value.name] = readers.get(value.name, 0) + 1
    taken = set(held) | set(makers)
    gone = []
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or readers[norm.input[0]] != 1:
            continue
        names = [*conv.input[1:], *norm.input[1:]]
        if any(name not in held for name in names):
            continue
        weight, *rest = (numpy_helper.to_array(held[name]) for name in names)
        bias = rest[0] if len(conv.input) > 2 else np.zeros(len(weight), np.float32)
        scale, shift, mean, variance = rest[-4:]
        epsilon = attributes(norm).get("epsilon", 1e-5)
        assert isinstance(epsilon, float)
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        parts = {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (bias - mean) * factor + shift,
        }
        del conv.input[1:]
        for part, value in parts.items():
            name = unused(f"{norm.output[0]}_{part}", taken)
            graph.initializer.append(_tensor(value, name))
            conv.input.append(name)
        conv.output[0] = norm.output[0]
        gone.append(norm)
    for norm in gone:
        graph.node.remove(norm)


def _tensor(value: NDArray[np.floating], name: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
