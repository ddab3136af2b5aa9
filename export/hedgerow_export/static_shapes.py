"""Shape arithmetic folded into constants, and the size of every value in a graph.

Exporters compute the target of a reshape from the sizes of other values, node by node. With the model's input
known but for its batch, all of it is constant but the batch, for which ``-1`` can be written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.metadata import read_layout

if TYPE_CHECKING:
    import onnx

Dims = dict[str, tuple[int, ...]]
Values = dict[str, NDArray[np.generic]]

# Two sizes of the batch: what differs between them depends on it.
BATCH = 3
_OTHER_BATCH = 5
_MAX_ELEMENTS = 1024
_SMALL = 16
_ROUNDS = 6
_ARITHMETIC = (
    "Abs Add And Cast Ceil Concat Constant ConstantOfShape Div Equal Expand Floor Gather Greater "
    "Identity Less  Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape "
    "Slice Sqrt Squeeze Sub  Transpose Unsqueeze Where"
)


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which everything that depends on sizes only is a constant.

    Every reshape whose sizes are known gets a constant target, with ``-1`` for the size that depends on the
    batch. Nodes and constants that nothing reads any more are taken out; tensors of the layout stay.
    """
    folded = _copy(model)
    for _ in range(_ROUNDS):
        before = len(folded.graph.node)
        own, other = (_evaluate(folded, infer_dims(folded, batch)) for batch in (BATCH, _OTHER_BATCH))
        _insert_constants(folded.graph, own[1], other[1])
        written = _write_targets(folded.graph, own, other)
        remove_unread(folded)
        if len(folded.graph.node) == before and not written:
            break
    return folded


def infer_dims(model: onnx.ModelProto, batch: int = BATCH) -> Dims:
    """Return the shape of every value, of initialisers too; those that cannot be told are left out.

    Parameters
    ----------
    model : onnx.ModelProto
    batch : int
        Size that is taken for the first dimension of every input.
    """
    from onnx import shape_inference

    skeleton = _skeleton(model, batch)
    inferred = shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True)
    dims: Dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    dims |= {tensor.values.name: tuple(tensor.dims) for tensor in model.graph.sparse_initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        shape = value.type.tensor_type.shape
        known = value.type.tensor_type.HasField("shape")
        if known and all(size.HasField("dim_value") for size in shape.dim):
            dims.setdefault(value.name, tuple(size.dim_value for size in shape.dim))
    return dims


def remove_unread(model: onnx.ModelProto) -> None:
    """Take out nodes and constants that no output depends on; tensors of the layout stay."""
    layout = read_layout(model)
    named = set() if layout is None else {spec.name for spec in layout.tensors}
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= set(read_names(node))
    if len(kept) < len(graph.node):
        kept.reverse()
        del graph.node[:]
        graph.node.extend(kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted | named]
    if len(tensors) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(tensors)


def read_names(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node reads, also those that its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            names += [name for inner in graph.node for name in read_names(inner)]
            names += [value.name for value in graph.output]
    return names


def constants(graph: onnx.GraphProto) -> Values:
    """Return the small integer and boolean initialisers: sizes, axes and indices, never weights."""
    from onnx import TensorProto, numpy_helper

    kinds = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    return {
        tensor.name: np.asarray(numpy_helper.to_array(tensor))
        for tensor in graph.initializer
        if tensor.data_type in kinds and math.prod(tensor.dims) <= _MAX_ELEMENTS
    }


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.value_info[:]  # stale after every change
    return copied


def _skeleton(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the model without its weights, which become inputs, and with a batch of a fixed size."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(model.graph.node)
    small = constants(model.graph)
    held = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in held)
    for value in graph.input:
        shape = value.type.tensor_type.shape
        if shape.dim and not shape.dim[0].HasField("dim_value"):
            shape.dim[0].dim_value = batch
    for tensor in model.graph.initializer:
        # Small ones may be scales of a Resize, on which shapes depend.
        if tensor.name in small or math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.output:
        output = graph.output.add(name=value.name)
        output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return skeleton


def _evaluate(model: onnx.ModelProto, dims: Dims) -> tuple[Dims, Values]:
    """Return the shapes, and the values of all nodes that depend on shapes and constants only."""
    values = constants(model.graph)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            continue
        if node.op_type == "Shape" and node.input[0] in dims:
            values[node.output[0]] = _shape_of(node, dims[node.input[0]])
        elif node.op_type in _ARITHMETIC.split() and all(name in values for name in node.input if name):
            value = evaluate_node(node, values, model)
            if value is not None and value.size <= _MAX_ELEMENTS:
                values[node.output[0]] = value
    return dims, values


def _shape_of(node: onnx.NodeProto, dims: tuple[int, ...]) -> NDArray[np.int64]:
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(dims[bounds.get("start", 0) : bounds.get("end", len(dims))], np.int64)


def evaluate_node(
    node: onnx.NodeProto, values: Mapping[str, NDArray[np.generic]], model: onnx.ModelProto
) -> NDArray[np.generic] | None:
    """Return the first output of one node on known inputs; None for one that cannot be computed."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    feeds = {name: values[name] for name in node.input if name}
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(node.output[0])]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    alone = onnx.helper.make_model(graph, opset_imports=list(model.opset_import))
    try:
        result: NDArray[np.generic] = np.asarray(ReferenceEvaluator(alone).run(None, feeds)[0])  # type: ignore[index]
    # The evaluator has no error of its own: these are what its operators raise.
    except (RuntimeError, NotImplementedError, TypeError, ValueError, KeyError, IndexError, OverflowError):
        return None
    return result if result.dtype != object else None


def _insert_constants(graph: onnx.GraphProto, own: Values, other: Values) -> None:
    """Replace nodes whose value does not depend on the batch by constants."""
    from onnx import numpy_helper

    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        name = node.output[0] if len(node.output) == 1 else ""
        fixed = (
            name in own and name in other and name not in outputs and np.array_equal(own[name], other[name])
        )
        if fixed:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(own[name]), name))
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _write_targets(graph: onnx.GraphProto, own: tuple[Dims, Values], other: tuple[Dims, Values]) -> int:
    """Give every reshape of known sizes a constant target of its own; return how many were written."""
    from onnx import numpy_helper

    held = constants(graph)
    taken = {tensor.name for tensor in graph.initializer} | {name for n in graph.node for name in n.output}
    written = 0
    for node in graph.node:
        sizes = [_sizes(node, *known) for known in (own, other)] if node.op_type == "Reshape" else []
        if not sizes or sizes[0] is None or sizes[1] is None:
            continue
        target = target_of(sizes[0], sizes[1])
        present = held.get(node.input[1])
        if target is None or (present is not None and np.array_equal(present, target)):
            continue
        name = unused(f"{node.output[0]}_target", taken)
        graph.initializer.append(numpy_helper.from_array(target, name))
        node.input[1] = name
        written += 1
    return written


def _sizes(node: onnx.NodeProto, dims: Dims, values: Values) -> tuple[int, ...] | None:
    """Return the shape that a reshape gives, by its output's known shape or by its target's known values."""
    if node.output[0] in dims:
        return dims[node.output[0]]
    target = values.get(node.input[1])
    if target is None or (target.astype(np.int64) < 1).any():
        return None
    return tuple(int(size) for size in target)


def target_of(own: tuple[int, ...], other: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Return the reshape target for the sizes under two batches; None where two of them depend on it."""
    if len(own) != len(other) or 0 in own:
        return None
    varying = [axis for axis, (a, b) in enumerate(zip(own, other, strict=True)) if a != b]
    if len(varying) > 1:
        return None
    return np.array([-1 if axis in varying else size for axis, size in enumerate(own)], np.int64)


def unused(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    """Return a node's attributes as plain values, text as str."""
    import onnx

    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
