"""Bit vectors as bytes: the payload of a mask frame."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError


def encode_bits(bits: NDArray[np.bool_]) -> bytes:
    """Encode bits, shape ``(n,)``, as the shorter of packed bits and gaps, deflated."""
    packed = zlib.compress(np.packbits(bits, bitorder="little").tobytes(), 6)
    gaps = np.diff(np.flatnonzero(bits), prepend=-1).astype("<u4")
    planes = gaps.view(np.uint8).reshape(-1, 4).T.tobytes()
    spaced = zlib.compress(planes, 6)
    return b"\0" + packed if len(packed) <= len(spaced) else b"\1" + spaced


def decode_bits(payload: bytes, *, count: int) -> NDArray[np.bool_]:
    """Decode `count` bits.

    Raises
    ------
    PayloadError
        For anything that does not say exactly `count` bits.
    """
    if payload[:1] == b"\0":
        packed = _inflate(payload[1:], limit=(count + 7) // 8)
        if len(packed) != (count + 7) // 8:
            raise PayloadError(f"{len(packed)} bytes do not hold {count} bits")
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        if np.any(bits[count:]):
            raise PayloadError("bits beyond the last parameter are set")
        return bits[:count].astype(np.bool_)
    if payload[:1] == b"\1":
        planes = _inflate(payload[1:], limit=4 * count)
        if len(planes) % 4:
            raise PayloadError(f"{len(planes)} bytes are not a row of gaps")
        gaps = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(4, -1).T).view("<u4").reshape(-1)
        places = np.cumsum(gaps.astype(np.int64)) - 1
        if np.any(gaps == 0) or (places.size and places[-1] >= count):
            raise PayloadError(f"gaps lead beyond {count} bits")
        found = np.zeros(count, np.bool_)
        found[places] = True
        return found
    raise PayloadError(f"mask has no form {payload[:1].hex() or 'nothing'}", offset=0)


def _inflate(data: bytes, *, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise PayloadError(f"mask does not inflate: {error}") from error
    if len(inflated) > limit or not inflater.eof or inflater.unused_data:
        raise PayloadError(f"mask does not inflate to {limit} bytes or fewer")
    return inflated
