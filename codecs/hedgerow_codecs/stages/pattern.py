"""Sign patterns: which way the columns of a tensor point, where its rows point all one way or all the other.

The gradient of a weight matrix is a sum of few outer products, so the signs of a row are often those of
another row, or their opposites. A pattern is one sign for each place in a row; a code's sign is told against
its place's. SPEC.md, section 5.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.layout import TensorSpec
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.energy import Levels, by_tensor, geometry
from hedgerow_codecs.stages.reader import Reader

NUM_RELATIONS = 8
"""Whether each of the three codes before is at a place of the other sign."""
_LAGS = 3
_MEMORY = 4
_ITERATIONS = 6
_SAMPLE = 1 << 16
_FEW, _MANY = 1 << 15, 1 << 18
_LARGEST = 3
_MARGIN_BITS = 16.0

Pattern = NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patterns:
    """For each tensor what is negative in its pattern, shape (places of a row,), or None without one."""

    of_tensors: tuple[Pattern, ...]

    def write(self, levels: Sequence[Levels], *, mask: Mask) -> bytes:
        """Return which tensors have a pattern, and the patterns at places that may have codes."""
        told = np.array([pattern is not None for pattern in self.of_tensors], np.bool_)
        signs = [
            pattern[_open_places(level, tensor=tensor)]
            for pattern, level, tensor in zip(self.of_tensors, levels, mask.layout.tensors, strict=True)
            if pattern is not None
        ]
        data = np.packbits(told, bitorder="little").tobytes()
        return data + (np.packbits(np.concatenate(signs), bitorder="little").tobytes() if signs else b"")

    @staticmethod
    def read(reader: Reader, levels: Sequence[Levels], *, mask: Mask) -> Patterns:
        """Undo `write`."""
        tensors = mask.layout.tensors
        told = reader.bits(len(tensors))
        reader.end_bits()
        patterns: list[Pattern] = []
        for is_told, level, tensor in zip(told.tolist(), levels, tensors, strict=True):
            if is_told and not _may_have_one(tensor):
                raise PayloadError(f"tensor {tensor.name!r} has one row, and that has no pattern")
            patterns.append(None)
            if is_told:
                places = _open_places(level, tensor=tensor)
                pattern = patterns[-1] = np.zeros(places.size, np.bool_)
                pattern[places] = reader.bits(int(np.count_nonzero(places)))
        reader.end_bits()
        return Patterns(of_tensors=tuple(patterns))

    def at(self, positions: NDArray[np.int64], *, mask: Mask) -> NDArray[np.bool_]:
        """Return what each live position's place has in its tensor's pattern; False without one."""
        found = np.zeros(positions.size, np.bool_)
        for pattern, part in zip(self.of_tensors, by_tensor(positions, mask=mask), strict=True):
            if pattern is not None:
                places = part.places()
                found[part.chosen] = pattern[places - places // pattern.size * pattern.size]  # sooner than %
        return found


def fit_patterns(positions: NDArray[np.int64], codes: NDArray[np.int32], *, mask: Mask) -> Patterns:
    """Choose the patterns that are likely to save bytes, for the codes that are not zero."""
    most = codes.size if codes.size <= _MANY else _FEW
    return Patterns(
        of_tensors=tuple(
            _fit(part.places(), codes[part.chosen], tensor=part.tensor, most=most) if part.size else None
            for part in by_tensor(positions, mask=mask)
        )
    )


def relations(signs: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return for the sign of each code's place whether the three before it are of the other one, as bits."""
    bases = np.zeros(signs.size, np.uint8)
    for lag in range(1, min(_LAGS, signs.size - 1) + 1):
        bases[lag:] |= (signs[lag:] ^ signs[:-lag]).astype(np.uint8) << np.uint8(lag - 1)
    return bases


def _may_have_one(tensor: TensorSpec) -> bool:
    return len(tensor.shape) > 1 and tensor.shape[0] > 1


def _open_places(levels: Levels, *, tensor: TensorSpec) -> NDArray[np.bool_]:
    """Return which places of a row are in a column that may have codes."""
    _, columns, cell = geometry(tensor)
    return np.repeat(np.broadcast_to(levels.columns > 0, columns), cell)


def _fit(places: NDArray[np.int64], codes: NDArray[np.int32], *, tensor: TensorSpec, most: int) -> Pattern:
    if not _may_have_one(tensor):
        return None
    num_rows = tensor.shape[0]
    width = tensor.size // num_rows
    rows = places // width
    columns = places - rows * width
    mass = np.clip(codes, -_LARGEST, _LARGEST).astype(np.float64)
    matrix = _Sparse(rows=rows, columns=columns, mass=mass, shape=(num_rows, width))
    pattern = matrix.right_vector(most) < 0
    expected = pattern[columns[:_SAMPLE]]
    negative = mass[:_SAMPLE] < 0
    saved = _bits(negative, np.zeros_like(negative)) - _bits(negative ^ expected, expected)
    sent = np.count_nonzero(np.bincount(columns, minlength=width))
    return pattern if saved * (places.size / negative.size) > sent + _MARGIN_BITS else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sparse:
    """A matrix of small whole numbers. All sums are exact: every machine finds the same vectors."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    mass: NDArray[np.float64]
    shape: tuple[int, int]

    def right_vector(self, most: int) -> NDArray[np.float64]:
        """Return the first right singular vector, roughly and in whole numbers, by the power method.

        It looks at the strongest rows, with `most` entries or so, and once at all.
        """
        weights = np.bincount(self.rows, np.abs(self.mass), minlength=self.shape[0])
        strongest = np.argsort(-weights, kind="stable")
        few = self._of_rows(strongest, most) if self.rows.size > most else self
        vector = few.transposed(np.arange(self.shape[0]) == strongest[0])
        for _ in range(_ITERATIONS):
            vector = few.transposed(few.times(vector))
        return vector if few is self else self.transposed(self.times(vector))

    def _of_rows(self, order: NDArray[np.int64], most: int) -> _Sparse:
        """Return the first rows in an order."""
        sizes = np.bincount(self.rows, minlength=self.shape[0])
        kept = np.zeros(self.shape[0], np.bool_)
        kept[order[: 1 + np.searchsorted(np.cumsum(sizes[order]), most)]] = True
        chosen = kept[self.rows]
        return _Sparse(
            rows=self.rows[chosen], columns=self.columns[chosen], mass=self.mass[chosen], shape=self.shape
        )

    def times(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the product with a vector of the columns, scaled."""
        return _scaled(np.bincount(self.rows, self.mass * vector[self.columns], minlength=self.shape[0]))

    def transposed(self, vector: NDArray[Any]) -> NDArray[np.float64]:
        """Return the product with a vector of the rows, scaled."""
        return _scaled(np.bincount(self.columns, self.mass * vector[self.rows], minlength=self.shape[1]))


def _scaled(vector: NDArray[Any]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = np.rint(vector * (127 / max(float(np.max(np.abs(vector))), 1.0)))
    return scaled


def _bits(symbols: NDArray[np.bool_], pattern: NDArray[np.bool_]) -> float:
    """Estimate what signs cost against a pattern, with the learning of the tables."""
    contexts = relations(pattern).astype(np.int64)
    for lag in range(1, min(_MEMORY, symbols.size - 1) + 1):
        contexts[lag:] += NUM_RELATIONS << (lag - 1) & -symbols[:-lag].astype(np.int64)
    counts = np.bincount(2 * contexts + symbols, minlength=2 * (NUM_RELATIONS << _MEMORY))
    counts = counts.reshape(-1, 2).astype(np.float64)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    entropy = -np.sum(counts * np.log2(np.maximum(shares, 2.0**-60)))
    return float(entropy + np.sum(np.log2(totals + 1)) / 2)
