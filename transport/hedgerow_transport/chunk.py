"""One chunk of a blob as a payload: version u8, index u32, CRC-32 u32 (all big-endian), then the data.

The CRC covers version, index and data, so that a flipped index does not put good data in the wrong place.
"""

from __future__ import annotations

import struct
import zlib

from hedgerow_transport.bitmap import MAX_CHUNKS
from hedgerow_transport.errors import MessageError
from hedgerow_transport.manifest import MAX_CHUNK_BYTES

CHUNK_VERSION = 1
_NUMBERED = struct.Struct(">BI")
_CHECKSUM = struct.Struct(">I")
CHUNK_HEADER_BYTES = _NUMBERED.size + _CHECKSUM.size


def encode_chunk(index: int, data: bytes) -> bytes:
    """Return the payload of chunk `index`, 0 to `MAX_CHUNKS` - 1.

    Raises
    ------
    MessageError
        When the index or the length of the data is out of bounds.
    """
    if not 0 <= index < MAX_CHUNKS:
        raise MessageError(f"index {index} is not from 0 to {MAX_CHUNKS - 1}", message="chunk")
    if not 1 <= len(data) <= MAX_CHUNK_BYTES:
        raise MessageError(
            f"has {len(data)} bytes of data, 1 to {MAX_CHUNK_BYTES} are allowed", message="chunk"
        )
    numbered = _NUMBERED.pack(CHUNK_VERSION, index)
    return b"".join((numbered, _CHECKSUM.pack(zlib.crc32(data, zlib.crc32(numbered))), data))


def decode_chunk(payload: bytes, max_bytes: int = MAX_CHUNK_BYTES) -> tuple[int, bytes]:
    """Return index and data of a chunk with at most `max_bytes` of data.

    Raises
    ------
    MessageError
        When the payload is too short or too long, of another version, or damaged.
    """
    num_bytes = len(payload) - CHUNK_HEADER_BYTES
    if not 1 <= num_bytes <= max_bytes:
        raise MessageError(f"has {num_bytes} bytes of data, 1 to {max_bytes} are allowed", message="chunk")
    version, index = _NUMBERED.unpack_from(payload)
    if version != CHUNK_VERSION:
        raise MessageError(f"version {version} is not known here, only {CHUNK_VERSION}", message="chunk")
    (checksum,) = _CHECKSUM.unpack_from(payload, _NUMBERED.size)
    data = bytes(payload[CHUNK_HEADER_BYTES:])
    if zlib.crc32(data, zlib.crc32(payload[: _NUMBERED.size])) != checksum:
        raise MessageError(f"chunk {index} is damaged (CRC)", message="chunk")
    if index >= MAX_CHUNKS:
        raise MessageError(f"index {index} is not from 0 to {MAX_CHUNKS - 1}", message="chunk")
    return index, data
