"""What is in a model file, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ModelError
from hedgerow_export.filling import find_tensors
from hedgerow_export.metadata import read_layout, read_metadata
from hedgerow_export.model_proto import check_bytes, parse_model

if TYPE_CHECKING:
    import onnx


def describe_model(data: bytes, *, foreign: bool = False) -> dict[str, Any]:
    """Return what a model is, as JSON values.

    Parameters
    ----------
    data : bytes
    foreign : bool
        Describe models that Hedgerow did not make, too; their ``layout`` is None.

    Returns
    -------
    dict
        ``bytes``, ``sealed``, ``ir_version``, ``opset``, ``producer``, ``inputs`` and ``outputs`` (name,
        dtype, shape; None is any size), ``nodes``, ``operators`` (name to count), ``parameters`` (weights),
        ``zeros_share`` (0 to 1), ``tensors`` (name, shape, kind, prunable, zeros), ``layout`` (digest),
        ``metadata``.

    Raises
    ------
    ModelError
        Damaged, cut short, empty or no ONNX model; and a foreign one unless `foreign`.
    TemplateError
        The layout in the model is not the one of its weights.
    """
    sealed = check_bytes(data)
    model = parse_model(data)
    layout = read_layout(model)
    if layout is None and not foreign:
        raise ModelError("This ONNX model was not made by Hedgerow: it carries no layout.")
    if layout is None:
        tensors = [_tensor(tensor) for tensor in model.graph.initializer if _is_float(tensor)]
        tensors += [_quantized(tensor) for tensor in model.graph.initializer if _is_quantized(tensor)]
        tensors += [_sparse(tensor) for tensor in model.graph.sparse_initializer]
    else:
        found = find_tensors(model, layout)
        kinds = {spec.name: {"kind": spec.kind, "prunable": spec.prunable} for spec in layout.tensors}
        tensors = [{**_tensor(tensor), **kinds[name]} for name, tensor in found.items()]
    parameters = sum(math.prod(entry["shape"]) for entry in tensors)
    zeros = sum(entry["zeros"] for entry in tensors)
    return {
        "bytes": len(data),
        "sealed": sealed,
        "ir_version": int(model.ir_version),
        "opset": max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(value) for value in model.graph.input if not _is_weight(value, model)],
        "outputs": [_value(value) for value in model.graph.output],
        "nodes": len(model.graph.node),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "parameters": parameters,
        "zeros_share": zeros / parameters if parameters else 0.0,
        "tensors": tensors,
        "layout": None if layout is None else layout.digest.hex(),
        "metadata": read_metadata(model),
    }


def _tensor(tensor: onnx.TensorProto) -> dict[str, Any]:
    values: NDArray[Any]
    if tensor.HasField("raw_data"):
        values = np.frombuffer(tensor.raw_data, "<f4")
    else:
        values = np.array(tensor.float_data, np.float32)
    zeros = values.size - int(np.count_nonzero(values))
    return {"name": tensor.name, "shape": [int(size) for size in tensor.dims], "zeros": zeros}


def _quantized(tensor: onnx.TensorProto) -> dict[str, Any]:
    """Describe a weight of 8 bits, or bytes with two weights of 4 bits each."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    zeros = int(values.size - np.count_nonzero(values))
    kind = "int8" if values.dtype == np.int8 else "packed int4"
    return {"name": tensor.name, "shape": list(values.shape), "kind": kind, "zeros": zeros}


def _sparse(tensor: onnx.SparseTensorProto) -> dict[str, Any]:
    shape = [int(size) for size in tensor.dims]
    zeros = math.prod(shape) - math.prod(tensor.values.dims)
    return {"name": tensor.values.name, "shape": shape, "kind": "sparse float32", "zeros": zeros}


def _is_quantized(tensor: onnx.TensorProto) -> bool:
    import onnx

    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return tensor.data_type in kinds and len(tensor.dims) > 1


def _is_float(tensor: onnx.TensorProto) -> bool:
    import onnx

    return bool(tensor.data_type == onnx.TensorProto.FLOAT)


def _is_weight(value: onnx.ValueInfoProto, model: onnx.ModelProto) -> bool:
    # Before IR 4 every weight had to be listed as an input as well.
    return any(tensor.name == value.name for tensor in model.graph.initializer)


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    import onnx

    held = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(held.elem_type) if held.elem_type in known else str(held.elem_type)
    shape = [int(d.dim_value) if d.HasField("dim_value") else None for d in held.shape.dim]
    return {"name": value.name, "dtype": dtype.lower(), "shape": shape}
