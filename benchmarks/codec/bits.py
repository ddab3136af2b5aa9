"""Golomb-Rice and Elias gamma codes over whole arrays: what STC and QSGD are published with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def rice_parameter(share: float) -> int:
    """Return how many bits of a gap are written as they are when a share of all entries is sent.

    Sattler 2020, where positions are Golomb-coded; `share` is above 0, below 1.
    """
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log(1 - share))))


def write_rice(values: Ints, *, low_bits: int) -> NDArray[np.uint8]:
    """Code numbers from 0: the quotient by ``2**low_bits`` in zeros and a one, then the rest."""
    return _write(values >> low_bits, values & ((1 << low_bits) - 1), np.full(values.size, low_bits))


def read_rice(bits: NDArray[np.uint8], *, count: int, low_bits: int) -> tuple[Ints, int]:
    """Return `count` numbers and where their bits end."""
    ones = _next_one(bits)
    starts = np.empty(count + 1, np.int64)
    place = 0
    for symbol in range(count):
        starts[symbol] = place
        place = ones[place] + 1 + low_bits
    starts[count] = place
    ends = starts[1:] - low_bits
    quotients = ends - 1 - starts[:-1]
    rests = _read_fields(bits, ends, np.full(count, low_bits))
    return (quotients << low_bits) | rests, place


def write_gamma(values: Ints) -> NDArray[np.uint8]:
    """Code numbers from 1 by Elias gamma, one bit an entry.

    Never longer than the recursive code that QSGD is published with for numbers below 128.
    """
    lengths = np.floor(np.log2(values)).astype(np.int64)
    return _write(lengths, values - (1 << lengths), lengths)


def read_gamma(bits: NDArray[np.uint8], *, count: int) -> tuple[Ints, int]:
    """Return `count` numbers and where their bits end."""
    ones = _next_one(bits)
    starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)
    place = 0
    for symbol in range(count):
        starts[symbol] = place
        one = ones[place]
        ends[symbol] = one + 1
        place = 2 * one + 1 - place
    lengths = ends - 1 - starts
    return (1 << lengths) | _read_fields(bits, ends, lengths), place


def _write(zeros: Ints, fields: Ints, widths: Ints) -> NDArray[np.uint8]:
    starts = np.cumsum(zeros + 1 + widths)
    bits = np.zeros(int(starts[-1]) if starts.size else 0, np.uint8)
    behind = starts - widths  # where a field begins; a one is before it
    bits[behind - 1] = 1
    for bit in range(int(widths.max(initial=0))):
        wide = widths > bit
        bits[behind[wide] + bit] = (fields[wide] >> (widths[wide] - 1 - bit)) & 1
    return bits


def _read_fields(bits: NDArray[np.uint8], starts: Ints, widths: Ints) -> Ints:
    values = np.zeros(starts.size, np.int64)
    for bit in range(int(widths.max(initial=0))):
        wide = widths > bit
        values[wide] = (values[wide] << 1) | bits[starts[wide] + bit]
    return values


def _next_one(bits: NDArray[np.uint8]) -> list[int]:
    """Return for each place the first that holds a one from there on."""
    places = np.where(bits == 1, np.arange(bits.size), bits.size)
    following: list[int] = np.minimum.accumulate(places[::-1])[::-1].tolist()
    return following
