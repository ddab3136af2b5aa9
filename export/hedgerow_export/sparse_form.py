"""Tensors with many zeros as ONNX sparse initialisers: a smaller file, the same model.

onnxruntime makes such tensors dense when it loads them, so that memory and speed are those of the dense
model. Positions are written as protobuf's variable-length integers, two to four bytes each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hedgerow_export.metadata import LAYOUT_KEY
from hedgerow_export.model_proto import parse_model, serialize_model

if TYPE_CHECKING:
    import onnx

_MIN_VALUES = 256


def make_sparse(model: bytes) -> tuple[bytes, int]:
    """Return a model whose sparse float tensors are stored so where that takes fewer bytes, and their number.

    Where there is any, the outcome has no layout: other weights cannot be put in.

    Raises
    ------
    ModelError
        The bytes are no model.
    """
    import onnx

    proto = parse_model(model)
    dense, count = [], 0
    for tensor in proto.graph.initializer:
        large = tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) >= _MIN_VALUES
        sparse = _sparse(tensor) if large else None
        if sparse is not None and sparse.ByteSize() < tensor.ByteSize():
            proto.graph.sparse_initializer.append(sparse)
            count += 1
        else:
            dense.append(tensor)
    if not count:
        return model, 0
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(dense)
    kept = [entry for entry in proto.metadata_props if entry.key != LAYOUT_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    return serialize_model(proto), count


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    import onnx
    from onnx import numpy_helper

    flat = numpy_helper.to_array(tensor).reshape(-1)
    places = np.flatnonzero(flat)
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(numpy_helper.from_array(flat[places], tensor.name))
    sparse.indices.data_type = onnx.TensorProto.INT64
    sparse.indices.dims.append(len(places))
    sparse.indices.int64_data.extend(places.tolist())
    sparse.dims.extend(tensor.dims)
    return sparse
