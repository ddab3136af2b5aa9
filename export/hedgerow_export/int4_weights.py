"""Weights of linear layers in 4 bits, in blocks of 32 with a scale each; activations stay float.

Written as onnxruntime's own operator ``com.microsoft.MatMulNBits`` (docs/ContribOperators.md of its source),
which computes with 8-bit activations inside (accuracy level 4). Helps models of linear layers that are bound
by memory; convolutions stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import QuantizationError
from hedgerow_export.fusing import fuse_constants
from hedgerow_export.model_proto import parse_model, serialize_model
from hedgerow_export.static_shapes import attributes, remove_unread, unused
from hedgerow_export.tidying import IR_VERSION

if TYPE_CHECKING:
    import onnx

BLOCK = 32
_ZERO = 8
_MIN_COLUMNS = 2 * BLOCK
_DOMAIN = "com.microsoft"


def quantize_int4_weights(model: bytes) -> tuple[bytes, int]:
    """Return a model whose linear layers hold their weights in 4 bits, and how many layers these are.

    Raises
    ------
    QuantizationError
        There is no linear layer with at least 64 inputs.
    ModelError
        The bytes are no model.
    """
    import onnx
    from onnx import numpy_helper

    fused = fuse_constants(parse_model(model))
    graph = fused.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    taken = set(held) | {name for node in graph.node for name in node.output}
    nodes, count = [], 0
    for node in graph.node:
        matrix = _matrix(node, held)
        if matrix is None:
            nodes.append(node)
            continue
        packed, scales = pack_int4(matrix)
        names = [unused(f"{node.output[0]}_{part}", taken) for part in ("int4", "scales")]
        graph.initializer.append(numpy_helper.from_array(packed, names[0]))
        graph.initializer.append(numpy_helper.from_array(scales, names[1]))
        biased = node.op_type == "Gemm" and len(node.input) > 2
        product = unused(f"{node.output[0]}_product", taken) if biased else node.output[0]
        nodes.append(
            onnx.helper.make_node(
                "MatMulNBits",
                [node.input[0], *names],
                [product],
                domain=_DOMAIN,
                K=matrix.shape[1],
                N=matrix.shape[0],
                bits=4,
                block_size=BLOCK,
                accuracy_level=4,
            )
        )
        if biased:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
        count += 1
    if not count:
        raise QuantizationError(
            f"The model has no linear layer with at least {_MIN_COLUMNS} inputs, so 4-bit weights would gain "
            "nothing; use --quantize int8 or none."
        )
    del graph.node[:]
    graph.node.extend(nodes)
    fused.opset_import.add(domain=_DOMAIN, version=1)
    fused.ir_version = IR_VERSION
    remove_unread(fused)
    return serialize_model(fused), count


def pack_int4(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise a matrix row by row, in blocks of 32 columns.

    Parameters
    ----------
    matrix : ndarray, float32, shape (n, k)

    Returns
    -------
    packed : ndarray, uint8, shape (n, blocks, 16)
        Two numbers in a byte, the earlier one in the low half; 8 stands for zero.
    scales : ndarray, float32, shape (n, blocks)
        The value with the largest magnitude of each block becomes -8 times its scale, or 7 at the other end.
    """
    rows, columns = matrix.shape
    blocks = -(-columns // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :columns] = matrix
    table = padded.reshape(rows, blocks, BLOCK)
    largest = np.take_along_axis(table, np.abs(table).argmax(axis=2)[..., None], axis=2)[..., 0]
    scales = (largest / -_ZERO).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)
    codes = np.clip(np.rint(table / divisors[..., None]) + _ZERO, 0, 15).astype(np.uint8)
    pairs = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return np.ascontiguousarray(pairs, np.uint8), scales


def _matrix(node: onnx.NodeProto, held: dict[str, onnx.TensorProto]) -> NDArray[np.float32] | None:
    """Return the weights of a linear layer as (outputs, inputs); None for any other node."""
    import onnx
    from onnx import numpy_helper

    if node.op_type not in ("Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return None
    tensor = held.get(node.input[1])
    if tensor is None or len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    given = attributes(node)
    factors = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0)
    if node.op_type == "Gemm" and factors:
        return None
    value: NDArray[np.float32] = np.asarray(numpy_helper.to_array(tensor))
    matrix = value if node.op_type == "Gemm" and given.get("transB", 0) else value.T
    return np.ascontiguousarray(matrix) if matrix.shape[1] >= _MIN_COLUMNS else None
