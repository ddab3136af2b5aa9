"""Positions: sparse codes as bytes, either with every zero written or with the gaps between the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.signal import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class WithZeros:
    """Writes one code for every live entry."""

    def encode(self, signal: Signal) -> Signal:
        dense = np.zeros(signal.mask.num_live, np.int32)
        dense[signal.positions] = signal.codes
        return replace(signal, data=_planes(_zigzag(dense)) + signal.data)

    def decode(self, signal: Signal) -> Signal:
        words, rest = _read_planes(signal.data, count=signal.mask.num_live)
        dense = _unzigzag(words)
        positions = np.flatnonzero(dense).astype(np.int64)
        return replace(signal, positions=positions, codes=dense[positions], data=rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithGaps:
    """Writes how many codes there are, the number of zeros before each, and the codes."""

    def encode(self, signal: Signal) -> Signal:
        zeros = np.diff(signal.positions, prepend=-1) - 1
        head = signal.positions.size.to_bytes(4, "little")
        data = head + _planes(zeros.astype(np.uint32)) + _planes(_zigzag(signal.codes)) + signal.data
        return replace(signal, data=data)

    def decode(self, signal: Signal) -> Signal:
        count = int.from_bytes(signal.data[:4], "little")
        if len(signal.data) < 4 or count > signal.mask.num_live:
            raise PayloadError(f"{count} codes do not fit {signal.mask.num_live} live parameters")
        zeros, rest = _read_planes(signal.data[4:], count=count)
        words, rest = _read_planes(rest, count=count)
        positions = np.cumsum(zeros.astype(np.int64) + 1) - 1
        if count and (positions[-1] >= signal.mask.num_live):
            raise PayloadError(f"position {positions[-1]} is beyond {signal.mask.num_live} live parameters")
        codes = _unzigzag(words)
        if not np.all(codes):
            raise PayloadError("a code among the gaps is zero")
        return replace(signal, positions=positions, codes=codes, data=rest)


def _zigzag(codes: NDArray[np.int32]) -> NDArray[np.uint32]:
    return ((codes << 1) ^ (codes >> 31)).view(np.uint32)


def _unzigzag(words: NDArray[np.uint32]) -> NDArray[np.int32]:
    return ((words >> 1) ^ (0 - (words & 1))).view(np.int32)


def _planes(words: NDArray[np.uint32]) -> bytes:
    """Write the number of bytes that the largest word needs, then all first bytes, all second bytes, ..."""
    width = (int(words.max(initial=0)).bit_length() + 7) // 8
    return bytes([width]) + words.astype("<u4").view(np.uint8).reshape(-1, 4).T[:width].tobytes()


def _read_planes(data: bytes, *, count: int) -> tuple[NDArray[np.uint32], bytes]:
    if not data or data[0] > 4 or len(data) < 1 + data[0] * count:
        raise PayloadError(f"{len(data)} bytes do not hold {count} words")
    size = data[0] * count
    words = np.zeros((count, 4), np.uint8)
    words[:, : data[0]] = np.frombuffer(data, np.uint8, count=size, offset=1).reshape(data[0], count).T
    return words.view("<u4").reshape(count).astype(np.uint32), data[1 + size :]
