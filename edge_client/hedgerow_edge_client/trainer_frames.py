"""Frames on the pipe between client and trainer: a length (u32, little-endian), then that much msgpack."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import IO, Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from hedgerow_edge_client.errors import FrameFault

# Room for the weights of the largest layout that a device could train.
MAX_FRAME_BYTES = 2**31 - 1
_LENGTH = struct.Struct("<I")
_ARRAY_KINDS = "biuf"


def write_frame(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one message and flush.

    Raises
    ------
    FrameFault
        The message is too large.
    OSError
        The other end is gone.
    """
    body = bytes(msgpack.packb(message, use_bin_type=True) or b"")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameFault(f"a message of {len(body)} bytes is more than the {MAX_FRAME_BYTES} of a frame")
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None when the other end has closed the pipe.

    Raises
    ------
    FrameFault
        The length is out of bounds, the frame ends early, or it is no msgpack map.
    """
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise FrameFault("the pipe ended inside a length")
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise FrameFault(f"a frame of {length} bytes is announced, at most {MAX_FRAME_BYTES} are read")
    body = stream.read(length)
    if len(body) < length:
        raise FrameFault(f"the pipe ended after {len(body)} of {length} bytes")
    try:
        message = msgpack.unpackb(body, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameFault(f"no msgpack: {error}") from error
    if not isinstance(message, dict):
        raise FrameFault(f"a {type(message).__name__} instead of a map")
    return message


def pack_array(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array of numbers as a map of type, shape and little-endian bytes."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind not in _ARRAY_KINDS:
        raise FrameFault(f"arrays of {array.dtype} do not go over the pipe")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def unpack_array(packed: Mapping[str, Any]) -> NDArray[Any]:
    """Return what `pack_array` took; raises FrameFault for anything else."""
    try:
        dtype = np.dtype(packed["dtype"])
        if dtype.kind not in _ARRAY_KINDS:
            raise FrameFault(f"arrays of {dtype} do not go over the pipe")
        return np.frombuffer(packed["data"], dtype).reshape(packed["shape"]).astype(dtype.newbyteorder("="))
    except (KeyError, TypeError, ValueError) as error:
        raise FrameFault(f"no array: {error}") from error
