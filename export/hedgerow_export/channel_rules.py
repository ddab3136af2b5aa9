"""The rule of every operator for channels: one table. An operator that is not in it freezes its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hedgerow_export import rules_layers, rules_recurrent, rules_reshape, rules_shapes, rules_values
from hedgerow_export.tracing import Tracer, label

if TYPE_CHECKING:
    import onnx

Rule = Callable[[Tracer, "onnx.NodeProto"], None]

_ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
    "Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod "
    "Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign "
    "Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
_REDUCTIONS = (
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare"
)
# Operators that leave a weight readable as a view: its axes are moved, not its values changed.
_VIEWS = frozenset(("Transpose", "Unsqueeze", "Squeeze", "Reshape"))


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_each(_ELEMENTWISE, rules_values.elementwise),
    **_each(_REDUCTIONS, rules_values.reduction),
    **_each("AveragePool LpPool MaxPool", rules_values.pooling),
    **_each("GlobalAveragePool GlobalLpPool GlobalMaxPool", rules_values.pooling),
    **_each("Hardmax LogSoftmax LpNormalization Softmax", rules_values.along_axis),
    **_each("LayerNormalization RMSNormalization", rules_layers.layer_norm),
    **_each("BatchNormalization InstanceNormalization", rules_layers.channel_norm),
    **_each("Flatten Reshape", rules_reshape.reshape),
    **_each("Squeeze Unsqueeze", rules_shapes.inserted_axes),
    "Concat": rules_shapes.concat,
    "Conv": rules_layers.convolution,
    "ConvTranspose": rules_layers.transposed_convolution,
    "DepthToSpace": rules_shapes.depth_to_space,
    "Expand": rules_values.expand,
    "Gather": rules_shapes.gather,
    "GRU": rules_recurrent.recurrent,
    "Gemm": rules_layers.gemm,
    "LSTM": rules_recurrent.recurrent,
    "MatMul": rules_layers.matmul,
    "Pad": rules_shapes.pad,
    "RNN": rules_recurrent.recurrent,
    "Resize": rules_shapes.resize,
    "Shape": rules_shapes.shape,
    "Slice": rules_shapes.slice_,
    "Split": rules_shapes.split,
    "Tile": rules_values.tile,
    "Transpose": rules_shapes.transpose,
}


def trace(model: onnx.ModelProto) -> Tracer:
    """Follow the channels of a graph from its inputs to its outputs.

    Parameters
    ----------
    model : onnx.ModelProto
        With its shape arithmetic folded (`static_shapes.fold_shapes`).
    """
    tracer = Tracer(model)
    held = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = tracer.dims.get(value.name, ())
        if value.name not in held and len(dims) > 1:
            axis = 1 if len(dims) != 3 else _narrow(tracer, value.name)
            atoms = tracer.fresh(dims[axis])
            tracer.freeze(atoms, "the model's input")
            tracer.put(value.name, axis, atoms)
    for node in model.graph.node:
        _apply(tracer, node)
    for value in model.graph.output:
        tracer.freeze_value(value.name, "the model's output")
    rules_recurrent.freeze_loose_ends(tracer)
    return tracer


def _apply(tracer: Tracer, node: onnx.NodeProto) -> None:
    known = node.domain in ("", "ai.onnx")
    rule = RULES.get(node.op_type) if known else None
    weights = [name for name in node.input if name in tracer.views]
    moving = [name for name in node.input if name and name not in tracer.views and name not in tracer.values]
    if known and rules_recurrent.weave(tracer, node):
        return
    if rules_recurrent.reads_woven(tracer, node) and (not known or node.op_type not in rules_recurrent.GATES):
        rules_layers.freeze_all(tracer, node, f"{label(node)} computes with weights that were cut and joined")
    if weights and not moving and node.op_type not in _VIEWS and rule is not None:
        rules_layers.freeze_all(tracer, node, f"{label(node)} computes with weights only")
    elif rule is None:
        name = node.op_type if known else f"{node.domain}.{node.op_type}"
        reason = f"operator {name} is not known here ({node.output[0] if node.output else node.name})"
        rules_layers.freeze_all(tracer, node, reason)
    else:
        rule(tracer, node)


def _narrow(tracer: Tracer, name: str) -> int:
    """Return the channel axis of an input of three axes: 1 for a convolution, 2 for steps of features."""
    readers = tracer.readers.get(name, [])
    return 1 if readers and all(node.op_type in ("Conv", "BatchNormalization") for node in readers) else 2
