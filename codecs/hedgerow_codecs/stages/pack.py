"""Codes in a fixed number of bits each: an entropy stage for those who want every message equally long."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.signal import Signal

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PackCodes:
    """Writes every live entry's code in `bits` bits, zeros included."""

    bits: int

    def encode(self, signal: Signal) -> Signal:
        codes = np.zeros(signal.mask.num_live, np.int32)
        codes[signal.positions] = signal.codes
        return replace(signal, data=pack(codes, bits=self.bits) + signal.data)

    def decode(self, signal: Signal) -> Signal:
        size = packed_bytes(signal.mask.num_live, bits=self.bits)
        if len(signal.data) < size:
            raise PayloadError(f"{signal.mask.num_live} codes take {size} bytes, got {len(signal.data)}")
        codes = unpack(signal.data[:size], count=signal.mask.num_live, bits=self.bits)
        positions = np.flatnonzero(codes != 0).astype(np.int64)
        return replace(signal, positions=positions, codes=codes[positions], data=signal.data[size:])


def packed_bytes(count: int, *, bits: int) -> int:
    """Return how many bytes `pack` makes of so many codes."""
    return (count * bits + 7) // 8


def pack(codes: NDArray[np.int32], *, bits: int) -> bytes:
    """Write codes as two's complement, lowest bit first, one behind the other, padded with zero bits.

    Parameters
    ----------
    codes : ndarray, int32, shape (n,)
        Magnitudes below ``2**(bits - 1)``.
    bits : int
        2 to 16 inclusive.
    """
    places = np.arange(bits)
    parts = []
    for start in range(0, codes.size, _BLOCK):  # a block fills whole bytes
        block = codes[start : start + _BLOCK, None] >> places & 1
        parts.append(np.packbits(block.astype(np.uint8), bitorder="little").tobytes())
    return b"".join(parts)


def unpack(data: bytes, *, count: int, bits: int) -> NDArray[np.int32]:
    """Undo `pack`.

    Raises
    ------
    PayloadError
        The lowest code, which has no positive, or padding that is not zero.
    """
    weights = np.left_shift(1, np.arange(bits)).astype(np.int32)
    weights[-1] = -weights[-1]
    packed = np.frombuffer(data, np.uint8)
    codes = np.empty(count, np.int32)
    for start in range(0, count, _BLOCK):
        block = codes[start : start + _BLOCK]
        begin = start * bits // 8
        stretch = packed[begin : begin + packed_bytes(block.size, bits=bits)]
        raw = np.unpackbits(stretch, bitorder="little")
        if np.any(raw[block.size * bits :]):
            raise PayloadError("bits beyond the last code are set")
        block[:] = raw[: block.size * bits].reshape(-1, bits) @ weights
    if np.any(codes == weights[-1]):
        raise PayloadError(f"there is no code {weights[-1]}")
    return codes
