"""Bytes to a checked ``ModelProto`` and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow_export.errors import ModelError
from hedgerow_export.optional import require
from hedgerow_export.seal import SEAL_KEY, check_seal, seal

if TYPE_CHECKING:
    import onnx

# protobuf refuses to write or read more; a larger model would need external data files, which we never use.
MAX_MODEL_BYTES = 2**31 - 1


def read_model(path: Path) -> bytes:
    """Return the bytes of a model file.

    Raises
    ------
    ModelError
        The file is missing, unreadable or larger than 2 GiB (nothing is read then).
    """
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(f"{path} has {size} bytes; an ONNX model has at most {MAX_MODEL_BYTES}.")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_bytes(data: bytes) -> bool:
    """Check what can be checked without parsing: size and seal.

    Returns
    -------
    bool
        Whether the model carries a (valid) seal.

    Raises
    ------
    ModelError
        Empty, too large, or changed since it was sealed.
    """
    if not data:
        raise ModelError("The model is empty (0 bytes).")
    if len(data) > MAX_MODEL_BYTES:
        raise ModelError(f"The model has {len(data)} bytes; an ONNX model has at most {MAX_MODEL_BYTES}.")
    return check_seal(data)


def parse_model(data: bytes) -> onnx.ModelProto:
    """Parse a serialised model and check its frame: graph, opset, and the size of every initialiser.

    Parameters
    ----------
    data : bytes
        An ONNX model, ours or another's.

    Raises
    ------
    ModelError
        Empty, too large, damaged, cut short, not ONNX, or with weights in other files.
    """
    check_bytes(data)
    require("onnx")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no stubs

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:  # ValueError: a string that is not UTF-8
        raise ModelError(
            f"These {len(data)} bytes are not an ONNX model: damaged, cut short, or of another format."
        ) from error
    # Many short byte strings parse as a message of unknown fields.
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise ModelError(f"These {len(data)} bytes hold no ONNX graph: cut short, or of another format.")
    for tensor in model.graph.initializer:
        _check_initializer(tensor)
    for sparse in model.graph.sparse_initializer:
        _check_sparse(sparse)
    return model


def serialize_model(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model with a fresh seal; the same model gives the same bytes.

    Raises
    ------
    ModelError
        The model is larger than 2 GiB.
    """
    kept = [entry for entry in model.metadata_props if entry.key != SEAL_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if model.ByteSize() > MAX_MODEL_BYTES - 256:
        raise ModelError(f"The model needs {model.ByteSize()} bytes; one ONNX file holds at most 2 GiB.")
    return seal(model.SerializeToString(deterministic=True))


def _check_initializer(tensor: onnx.TensorProto) -> None:
    import onnx

    # A foreign model could name any file of this machine as its weights.
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(
            f"The weights of tensor {tensor.name!r} are in another file; save the model as one file."
        )
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"Tensor {tensor.name!r} has the impossible shape {list(tensor.dims)}.")
    if tensor.data_type == onnx.TensorProto.FLOAT:
        held = len(tensor.raw_data) // 4 if tensor.HasField("raw_data") else len(tensor.float_data)
        if held != math.prod(tensor.dims) or len(tensor.raw_data) % 4:
            raise ModelError(
                f"Tensor {tensor.name!r} has shape {tuple(tensor.dims)} but holds {held} values: "
                "the model is damaged."
            )


def _check_sparse(tensor: onnx.SparseTensorProto) -> None:
    """Check that a sparse tensor is as large as it says; a few bytes can claim to be terabytes."""
    name = tensor.values.name
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) * 4 > MAX_MODEL_BYTES:
        raise ModelError(f"Tensor {name!r} has the impossible shape {list(tensor.dims)}.")
    _check_initializer(tensor.values)
    if list(tensor.values.dims) != list(tensor.indices.dims)[:1]:
        raise ModelError(f"Sparse tensor {name!r} has other numbers of values and places: it is damaged.")
