"""What a model holds and computes: parameters and multiply-adds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hedgerow_export.metadata import read_layout
from hedgerow_export.model_proto import parse_model
from hedgerow_export.static_shapes import Dims, fold_shapes, infer_dims

if TYPE_CHECKING:
    import onnx

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Size and work of a float model.

    Attributes
    ----------
    parameters : int
        Of its layout; for a model without one, all numbers in its float tensors.
    multiply_adds : int
        For one input, of convolutions, linear layers, products and recurrent layers; zeros count like any
        number.
    """

    parameters: int
    multiply_adds: int


def count_costs(model: bytes) -> Costs:
    """Count parameters and multiply-adds of a float model.

    Raises
    ------
    ModelError
        The bytes are no model.
    """
    import onnx

    proto = fold_shapes(parse_model(model))
    dims = infer_dims(proto, batch=1)
    layout = read_layout(proto)
    held = sum(
        math.prod(tensor.dims)
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    parameters = held if layout is None else layout.num_parameters
    return Costs(
        parameters=parameters, multiply_adds=sum(_multiply_adds(node, dims) for node in proto.graph.node)
    )


def _multiply_adds(node: onnx.NodeProto, dims: Dims) -> int:
    names = [name for name in (*node.input[:3], node.output[0] if node.output else "") if name]
    if any(name not in dims for name in names):
        return 0
    if node.op_type == "Conv":
        return math.prod(dims[node.output[0]]) * math.prod(dims[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(dims[node.input[0]]) * math.prod(dims[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return math.prod(dims[node.output[0]]) * dims[node.input[0]][0 if transposed else -1]
    if node.op_type in _GATES:
        steps, rows, inputs = dims[node.input[0]]
        directions, _, hidden = dims[node.input[2]]
        return steps * rows * directions * _GATES[node.op_type] * hidden * (inputs + hidden)
    return 0
