"""Histograms of activations: counted on devices, coded in few bytes, added up, turned into ranges for int8.

A bin is ``[i w, (i + 1) w)`` with a width w that is a power of two, the smallest for which all values lie in
at most `BINS` neighbouring bins. So bins of two histograms fit into each other, and the sum of any number of
them is the same in any order.

As bytes: ``HGR1``, the digest of the model (16), rows u32, tensors u16, all big-endian, then a zlib stream:
for each tensor the exponent of the width i8, the first bin i32, the number of bins u8; and after those of all
tensors a byte for each bin: how its level differs from that of the bin before. Level 0 is none, level n is a
count near 2^((n - 1) / 2).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ModelError

BINS = 128
MAX_TENSORS = 4096
MAX_CODED_BYTES = 1 << 16
DIGEST_BYTES = 16
_LEAST_EXPONENT, _MOST_EXPONENT = -40, 100
_MAGIC = b"HGR1"
_HEAD = struct.Struct(">4s16sIH")
_TENSOR = struct.Struct(">biB")
_STEPS = 2  # levels in an octave
_MAX_LEVEL = 1 + _STEPS * 53
# The thresholds that are tried, as shares of the whole range.
_SHARES = np.linspace(1.0, 0.3, 57)
CLIPPINGS = ("error", "none")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """How often values lie in which bin.

    Attributes
    ----------
    exponent : int
        Bins are ``2**exponent`` wide.
    first : int
        Number of the first bin.
    counts : ndarray, float64, shape (n,)
        For each bin; n is 0 (nothing was counted) to `BINS`. Neither the first nor the last is 0.
    """

    exponent: int = _LEAST_EXPONENT
    first: int = 0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, values: NDArray[Any]) -> Histogram:
        """Count values of any shape; those that are not finite are left out."""
        flat = np.asarray(values, np.float64).reshape(-1)
        flat = flat[np.isfinite(flat)]
        if not flat.size:
            return cls()
        low, high = float(flat.min()), float(flat.max())
        exponent = _exponent(low, high)
        first = math.floor(low / 2.0**exponent)
        places = np.floor(flat / 2.0**exponent).astype(np.int64) - first
        return cls(exponent=exponent, first=first, counts=np.bincount(places).astype(np.float64))

    @property
    def low(self) -> float:
        """The lower edge of the first bin; 0 for no values."""
        return self.first * 2.0**self.exponent if self.counts.size else 0.0

    @property
    def high(self) -> float:
        """The upper edge of the last bin; 0 for no values."""
        return (self.first + len(self.counts)) * 2.0**self.exponent if self.counts.size else 0.0

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of both."""
        if not self.counts.size or not other.counts.size:
            return self if self.counts.size else other
        exponent = max(self.exponent, other.exponent)
        while True:
            left, right = self.coarser(exponent), other.coarser(exponent)
            first = min(left.first, right.first)
            size = max(left.first + len(left.counts), right.first + len(right.counts)) - first
            if size <= BINS:
                break
            exponent += 1
        counts = np.zeros(size)
        for part in (left, right):
            counts[part.first - first : part.first - first + len(part.counts)] += part.counts
        return Histogram(exponent=exponent, first=first, counts=counts)

    def coarser(self, exponent: int) -> Histogram:
        """Return the same values in bins of another width, which is not smaller."""
        if exponent <= self.exponent or not self.counts.size:
            return self
        shift = exponent - self.exponent
        first = self.first >> shift
        places = ((self.first + np.arange(len(self.counts))) >> shift) - first
        return Histogram(
            exponent=exponent, first=first, counts=np.bincount(places, weights=self.counts).astype(np.float64)
        )

    def clipped(self) -> tuple[float, float]:
        """Return the range for which 8 bits make the least square error: steps inside, clipping outside."""
        low, high = min(0.0, self.low), max(0.0, self.high)
        if not self.counts.size or low == high:
            return low, high
        width = 2.0**self.exponent
        numbers = self.first + np.arange(len(self.counts))
        # What is zero has no error: most values behind a ReLU are.
        inside = np.where((numbers == 0) | (numbers == -1), 0.0, self.counts)
        error = _Error(
            counts=self.counts, inside=inside, centres=np.asarray((numbers + 0.5) * width, np.float64)
        )
        found = error.least([(share * low, share * high) for share in _SHARES])
        # Then each end by itself.
        found = error.least([(found[0], share * high) for share in _SHARES] + [found])
        return error.least([(share * low, found[1]) for share in _SHARES] + [found])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivationRanges:
    """Histograms of all tensors of one model that int8 needs a range of.

    Attributes
    ----------
    model : bytes
        Digest of the model's form for calibration, see `calibration_form`.
    rows : int
        Inputs that were counted.
    histograms : tuple of Histogram
        In the order of that form's outputs.
    """

    model: bytes
    rows: int
    histograms: tuple[Histogram, ...]

    def __add__(self, other: ActivationRanges) -> ActivationRanges:
        """Return the ranges of both.

        Raises
        ------
        ModelError
            They are of different models.
        """
        if (self.model, len(self.histograms)) != (other.model, len(other.histograms)):
            raise ModelError("The ranges are of different models and cannot be added.")
        pairs = zip(self.histograms, other.histograms, strict=True)
        return ActivationRanges(
            model=self.model,
            rows=min(self.rows + other.rows, 2**32 - 1),
            histograms=tuple(left + right for left, right in pairs),
        )

    def ranges(self, clipping: str = "error") -> list[tuple[float, float]]:
        """Return (low, high) for each tensor.

        Parameters
        ----------
        clipping : str
            ``error`` leaves out rare large values where that makes 8 bits fit the others better; ``none``
            takes all of them.
        """
        if clipping == "none":
            return [(histogram.low, histogram.high) for histogram in self.histograms]
        return [histogram.clipped() for histogram in self.histograms]

    def encode(self, *, most_bytes: int = MAX_CODED_BYTES) -> bytes:
        """Return the bytes of the module's head; counts are rounded to half octaves.

        Parameters
        ----------
        most_bytes : int
            Bins are made wider until the code is not longer.

        Raises
        ------
        ModelError
            There are too many tensors for that.
        """
        held, bins = self, BINS
        while True:
            data = held._encode()
            if len(data) <= most_bytes:
                return data
            bins //= 2
            if bins < 8 or len(self.histograms) > MAX_TENSORS:
                raise ModelError(
                    f"The ranges of {len(self.histograms)} tensors do not fit into {most_bytes:,} bytes."
                )
            held = replace(held, histograms=tuple(_at_most(entry, bins) for entry in held.histograms))

    def _encode(self) -> bytes:
        heads, levels = [], []
        for entry in self.histograms:
            heads.append(_TENSOR.pack(entry.exponent, entry.first, len(entry.counts)))
            levels.append(np.diff(_levels(entry.counts), prepend=0).astype(np.int8).tobytes())
        body = zlib.compress(b"".join((*heads, *levels)), 9)
        return _HEAD.pack(_MAGIC, self.model, self.rows, len(self.histograms)) + body

    @classmethod
    def decode(cls, data: bytes) -> ActivationRanges:
        """Read what `encode` made.

        Raises
        ------
        ModelError
            For anything else; nothing is allocated that the number of tensors does not account for.
        """
        if len(data) > MAX_CODED_BYTES or not data.startswith(_MAGIC) or len(data) < _HEAD.size:
            raise ModelError(f"These {len(data)} bytes are no ranges of activations (they begin with HGR1).")
        _, digest, rows, tensors = _HEAD.unpack_from(data)
        if not 1 <= tensors <= MAX_TENSORS:
            raise ModelError(f"These ranges are of {tensors} tensors; 1 to {MAX_TENSORS} can be.")
        body = _inflated(data[_HEAD.size :], most=tensors * (_TENSOR.size + BINS))
        heads = tensors * _TENSOR.size
        if len(body) < heads:
            raise ModelError("The ranges are cut short.")
        entries = list(_TENSOR.iter_unpack(body[:heads]))
        if len(body) != heads + sum(size for *_, size in entries):
            raise ModelError("The ranges are cut short, or damaged.")
        histograms, at = [], heads
        for exponent, first, size in entries:
            histograms.append(_histogram(exponent, first, body[at : at + size]))
            at += size
        return cls(model=digest, rows=rows, histograms=tuple(histograms))


def merge_ranges(parts: Sequence[ActivationRanges]) -> ActivationRanges:
    """Add up the ranges of several devices; at least one.

    Raises
    ------
    ModelError
        They are of different models, or there are none.
    """
    if not parts:
        raise ModelError("There are no ranges to add up.")
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def _exponent(low: float, high: float) -> int:
    """Return the smallest exponent for which low and high lie in `BINS` neighbouring bins."""
    largest, span = max(abs(low), abs(high)), high - low
    exponent = _LEAST_EXPONENT
    if largest > 0:
        exponent = max(exponent, math.frexp(largest)[1] - 30)  # the number of a bin has 32 bits
    if span > 0:
        exponent = max(exponent, math.frexp(span / BINS)[1] - 1)
    while math.floor(high / 2.0**exponent) - math.floor(low / 2.0**exponent) >= BINS:
        exponent += 1
    return exponent


def _at_most(histogram: Histogram, bins: int) -> Histogram:
    while len(histogram.counts) > bins:
        histogram = histogram.coarser(histogram.exponent + 1)
    return histogram


def _levels(counts: NDArray[np.float64]) -> NDArray[np.int16]:
    with np.errstate(divide="ignore"):
        found = 1 + np.rint(_STEPS * np.log2(counts))
    return np.where(counts > 0, np.clip(found, 1, _MAX_LEVEL), 0).astype(np.int16)


def _histogram(exponent: int, first: int, coded: bytes) -> Histogram:
    levels = np.cumsum(np.frombuffer(coded, np.int8).astype(np.int64))
    inside = len(levels) <= BINS and _LEAST_EXPONENT <= exponent <= _MOST_EXPONENT
    if not inside or (len(levels) and not (levels.min() >= 0 and levels.max() <= _MAX_LEVEL)):
        raise ModelError("The ranges are damaged: a histogram has impossible numbers.")
    if len(levels) and not (levels[0] and levels[-1]):
        raise ModelError("The ranges are damaged: a histogram begins or ends with an empty bin.")
    # Whole numbers, whose sums are exact.
    counts = np.where(levels > 0, np.rint(2.0 ** ((levels - 1) / _STEPS)), 0.0)
    return Histogram(exponent=exponent, first=first, counts=counts)


def _inflated(data: bytes, *, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise ModelError(f"The ranges are damaged ({error}).") from error
    if len(body) > most or not stream.eof or stream.unused_data:
        raise ModelError("The ranges are damaged: they are longer or shorter than they say.")
    return body


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Error:
    """The square error of 8 bits for a range."""

    counts: NDArray[np.float64]
    inside: NDArray[np.float64]
    centres: NDArray[np.float64]

    def least(self, tried: Iterable[tuple[float, float]]) -> tuple[float, float]:
        """Return the one of some ranges with the least error."""
        best, least = (0.0, 0.0), math.inf
        for low, high in tried:
            outside = np.maximum(self.centres - high, 0) + np.maximum(low - self.centres, 0)
            step = (high - low) / 255
            steps = step**2 / 12 * float(np.sum(self.inside[outside == 0]))
            error = float(np.sum(self.counts * outside**2)) + steps
            if error < least:
                best, least = (low, high), error
        return best
