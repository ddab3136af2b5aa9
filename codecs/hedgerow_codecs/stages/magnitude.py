"""Magnitudes as symbols: 0, 1, 2 and more; the more in buckets of half an octave and raw low bits.

SPEC.md, section 5.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.reader import Reader, bit_places

FIRST_BUCKETED = 3
_DIRECT = 4
NUM_BUCKETS = 42
"""Reaches 2**21 - 1."""


def bucket(excess: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the bucket of each excess over `FIRST_BUCKETED`, and the raw low bits of all, lowest first."""
    exponents = np.frexp(excess.astype(np.float64))[1] - 1
    halves = excess >> np.maximum(exponents - 1, 0) & 1
    buckets = np.where(excess < _DIRECT, excess, _DIRECT + 2 * (exponents - 2) + halves).astype(np.uint8)
    owners, places = bit_places(low_bits(buckets))
    return buckets, (excess[owners] >> places & 1).astype(np.bool_)


def unbucket(buckets: NDArray[np.uint8], raw: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Undo `bucket`."""
    wide = buckets.astype(np.int64)
    counts = low_bits(buckets)
    excess: NDArray[np.int64] = np.where(wide < _DIRECT, wide, (2 + (wide & 1)) << counts)
    owners, places = bit_places(counts)
    np.add.at(excess, owners, raw.astype(np.int64) << places)
    return excess


def unary(buckets: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return each bucket as that many ones and a zero: what a few of them take the fewest bits in."""
    bits = np.ones(int(buckets.sum(dtype=np.int64)) + buckets.size, np.bool_)
    bits[np.cumsum(buckets.astype(np.int64) + 1) - 1] = False
    return bits


def read_unary(reader: Reader, *, count: int) -> NDArray[np.uint8]:
    """Undo `unary`."""
    buckets = np.zeros(count, np.uint8)
    for number in range(count):
        while reader.bits(1)[0]:
            buckets[number] += 1
            if buckets[number] == NUM_BUCKETS:
                raise PayloadError(f"there is no bucket {NUM_BUCKETS}")
    return buckets


def low_bits(buckets: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many raw bits follow each bucket."""
    if buckets.size and buckets.max() >= NUM_BUCKETS:
        raise PayloadError(f"there is no bucket {buckets.max()}")
    counts: NDArray[np.int64] = np.maximum((buckets.astype(np.int64) - _DIRECT >> 1) + 1, 0)
    return counts
