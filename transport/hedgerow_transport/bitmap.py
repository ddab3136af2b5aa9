"""Bitmaps of chunks: bit i (least significant bit of byte 0 first) stands for chunk i."""

from __future__ import annotations

from collections.abc import Iterable

MAX_CHUNKS = 65_536
MAX_BITMAP_BYTES = MAX_CHUNKS // 8


def from_indices(chosen: Iterable[int], *, size: int) -> bytes:
    """Return the bitmap of `size` chunks with the chosen ones set; others than 0 to size - 1 are ignored."""
    bits = bytearray((size + 7) // 8)
    for index in chosen:
        if 0 <= index < size:
            bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def full(size: int) -> bytes:
    """Return the bitmap with all of `size` chunks set.

    >>> full(10).hex()
    'ff03'
    """
    return ((1 << size) - 1).to_bytes((size + 7) // 8, "little")


def indices(bitmap: bytes, *, size: int = MAX_CHUNKS) -> list[int]:
    """Return the chunks below `size` that are set, ascending.

    >>> indices(bytes([0b101, 1]))
    [0, 2, 8]
    """
    found = []
    for place, octet in enumerate(bitmap):
        if octet:
            found += [8 * place + bit for bit in range(8) if octet >> bit & 1]
    return [index for index in found if index < size]


def union(*bitmaps: bytes) -> bytes:
    """Return the chunks that are set in any; as long as the longest."""
    merged = 0
    for bitmap in bitmaps:
        merged |= int.from_bytes(bitmap, "little")
    return merged.to_bytes(max((len(bitmap) for bitmap in bitmaps), default=0), "little")


def without(bitmap: bytes, removed: bytes) -> bytes:
    """Return the chunks of the first that are not in the second; as long as the first."""
    left = int.from_bytes(bitmap, "little") & ~int.from_bytes(removed, "little")
    return left.to_bytes(len(bitmap), "little")


def count(bitmap: bytes) -> int:
    """Return how many chunks are set."""
    return int.from_bytes(bitmap, "little").bit_count()
