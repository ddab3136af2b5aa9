"""Energy classes: where in a tensor codes are to be expected, from the levels of its rows and columns.

Whole filters rest and whole inputs are dark: a row and a column of a weight tensor predict an entry far
better than its neighbours do. Each row and each column has a level, an octave of its mean magnitude; their
sum is the class of an entry. SPEC.md, section 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.layout import TensorSpec
from hedgerow_codecs.mask import Mask

NUM_CLASSES = 14
"""Class 0 has no codes at all; class c expects a mean magnitude near ``2**(c - UNIT_CLASS)``."""
UNIT_CLASS = 9
NUM_LEVELS = 16
EVEN = 8
"""Column level that leaves its rows' levels as they are."""
_SHRINK = 2.0
_LEARNING_BITS = 3.0
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Levels:
    """Levels of one tensor's rows and columns; a single one where they are not told apart.

    Parameters
    ----------
    rows : ndarray, uint8, shape (num_rows,) or (1,)
        0 for a row without codes.
    columns : ndarray, uint8, shape (num_columns,) or (1,)
        0 for a column without codes.
    """

    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    def classes(self) -> NDArray[np.uint8]:
        """Return the class of each row and column, shape (len(rows), len(columns))."""
        # Rows of the table first: to index by both at once takes five times as long.
        return _class_table().take(self.rows, axis=0).take(self.columns, axis=1)


@cache
def _class_table() -> NDArray[np.uint8]:
    """Return the class for each row level and column level, shape (16, 16)."""
    levels = np.arange(NUM_LEVELS)
    table: NDArray[np.uint8] = np.clip(levels[:, None] + levels - EVEN, 1, NUM_CLASSES - 1).astype(np.uint8)
    table[0], table[:, 0] = 0, 0
    return table


def geometry(tensor: TensorSpec) -> tuple[int, int, int]:
    """Return rows, columns and entries in each cell: outputs, inputs and the kernel; vectors are one cell."""
    if len(tensor.shape) < 2:
        return 1, 1, tensor.size
    rows, columns = tensor.shape[:2]
    return rows, columns, tensor.size // (rows * columns)


def spread(levels: Levels, *, tensor: TensorSpec) -> NDArray[np.uint8]:
    """Return the class of each entry of a tensor, shape ``(size,)``."""
    rows, columns, cell = geometry(tensor)
    grid = np.broadcast_to(levels.classes(), (rows, columns))
    return np.repeat(grid, cell) if cell > 1 else grid.reshape(-1)


def fit_levels(
    places: NDArray[np.int64],
    magnitudes: NDArray[np.signedinteger[Any]],
    *,
    tensor: TensorSpec,
    live: NDArray[np.bool_] | None,
    flat: bool,
) -> Levels:
    """Choose the levels that are likely to cost the fewest bytes.

    Parameters
    ----------
    places : ndarray, int64, shape (k,)
        Of the codes in the tensor.
    magnitudes : ndarray of integers, shape (k,)
    tensor : TensorSpec
    live : ndarray, bool, shape (size,), or None where all of it lives
    flat : bool
        Whether to keep to one level for all rows and columns.
    """
    if not places.size:
        return Levels(rows=np.zeros(1, np.uint8), columns=np.full(1, EVEN, np.uint8))
    rows, columns, cell = geometry(tensor)
    # Magnitudes weigh no more than 16: one outlier must not raise the level of its row.
    mass = np.minimum(magnitudes, 16).astype(np.float64)
    cells = places // cell
    of_rows = cells // columns
    of_columns = cells - of_rows * columns
    codes = _Codes(
        rows=of_rows,
        columns=of_columns,
        mass=mass,
        of_rows=np.bincount(of_rows, mass, minlength=rows).astype(np.float64),
        of_columns=np.bincount(of_columns, mass, minlength=columns).astype(np.float64),
        room=_room(live, rows=rows, columns=columns, cell=cell),
        shape=(rows, columns),
    )
    candidates = [
        _levels(codes, by_row=by_row, by_column=by_column)
        for by_row in ((False, True) if rows > 1 and not flat else (False,))
        for by_column in ((False, True) if columns > 1 and not flat else (False,))
    ]
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda levels: _cost(levels, codes=codes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Codes:
    """Where a tensor's codes are, what they weigh, and how many entries there are in each cell."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    mass: NDArray[np.float64]
    of_rows: NDArray[np.float64]
    of_columns: NDArray[np.float64]
    room: NDArray[np.float32] | int
    shape: tuple[int, int]

    def room_of_columns(self) -> NDArray[np.float64]:
        if isinstance(self.room, int):
            return np.full(self.shape[1], float(self.room * self.shape[0]))
        return np.asarray(self.room.sum(axis=0), np.float64)

    def room_of_rows(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted entries of each row; `weights` are of the columns, or one for all."""
        if isinstance(self.room, int):
            total = self.room * float(np.broadcast_to(weights, self.shape[1:]).sum())
            return np.full(self.shape[0], total)
        of_columns = np.broadcast_to(weights, self.shape[1:])
        rows = max(_BLOCK // self.shape[1], 1)
        # In float64 counts times powers of two add up exactly, in whichever order a machine's BLAS adds them.
        blocks = (self.room[start : start + rows] for start in range(0, self.shape[0], rows))
        return np.concatenate([np.asarray(block @ of_columns, np.float64) for block in blocks])

    def room_of_classes(self, levels: Levels) -> NDArray[np.float64]:
        if isinstance(self.room, int):
            of_rows = np.bincount(levels.rows, minlength=NUM_LEVELS) / levels.rows.size
            of_columns = np.bincount(levels.columns, minlength=NUM_LEVELS) / levels.columns.size
            cells = np.outer(of_rows, of_columns) * (self.shape[0] * self.shape[1] * self.room)
            return _sum_by_class(_class_table(), cells)
        return _sum_by_class(np.broadcast_to(levels.classes(), self.shape), self.room)

    def mass_of_classes(self, levels: Levels) -> NDArray[np.float64]:
        if levels.columns.size == 1:
            masses = self.of_rows if levels.rows.size > 1 else self.of_rows.sum(keepdims=True)
            return _sum_by_class(levels.classes(), masses)
        if levels.rows.size == 1:
            return _sum_by_class(levels.classes(), self.of_columns)
        return _sum_by_class(_class_table()[levels.rows[self.rows], levels.columns[self.columns]], self.mass)


def _sum_by_class(classes: NDArray[np.uint8], weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.bincount(classes.reshape(-1), weights.reshape(-1), minlength=NUM_CLASSES).astype(np.float64)


def _room(live: NDArray[np.bool_] | None, *, rows: int, columns: int, cell: int) -> NDArray[np.float32] | int:
    if live is None:
        return cell
    return np.asarray(live.reshape(rows, columns, cell).sum(axis=2), np.float32)


def _levels(codes: _Codes, *, by_row: bool, by_column: bool) -> Levels:
    column_levels = np.full(1, EVEN, np.uint8)
    weights = np.ones(1)
    if by_column:
        found = codes.of_columns
        fair = codes.room_of_columns()
        fair *= found.sum() / fair.sum()
        octaves = np.rint(np.log2((found + _SHRINK) / (fair + _SHRINK)))
        column_levels = np.where(found > 0, np.clip(octaves + EVEN, 1, NUM_LEVELS - 1), 0).astype(np.uint8)
        weights = np.where(found > 0, np.ldexp(1.0, column_levels.astype(np.int32) - EVEN), 0)
    found = codes.of_rows
    fair = codes.room_of_rows(weights)
    if not by_row:
        found, fair = found.sum(keepdims=True), fair.sum(keepdims=True)
    octaves = np.rint(np.log2(np.maximum(found, 1) / np.maximum(fair, 1e-9)))
    row_levels = np.where(found > 0, np.clip(octaves + UNIT_CLASS, 1, NUM_CLASSES - 1), 0).astype(np.uint8)
    return Levels(rows=row_levels, columns=column_levels)


def _cost(levels: Levels, *, codes: _Codes) -> float:
    """Estimate bits: geometric magnitudes in each class, and the entropy of the levels."""
    rooms = codes.room_of_classes(levels)[1:]
    means = np.maximum(codes.mass_of_classes(levels)[1:] / np.maximum(rooms, 1e-9), 1e-9)
    bits = float(np.sum(rooms * (np.log2(1 + means) + means * np.log2(1 + 1 / means))))
    for side in (levels.rows, levels.columns):
        counts = np.bincount(side)
        shares = counts[counts > 0] / side.size
        bits -= side.size * float(np.sum(shares * np.log2(shares)))
        # Tables of levels are learnt on the way: the first of them cost more than their entropy.
        bits += _LEARNING_BITS * min(side.size - 1, 32) + math.log2(side.size) * (len(shares) - 1)
    return bits


def tensor_slices(mask: Mask) -> list[tuple[slice, slice]]:
    """Return each tensor's place in the flat and in the live vector."""
    live = np.cumsum((0, *mask.lengths)).tolist()
    return [
        (slice(*flat), slice(*kept))
        for flat, kept in zip(pairwise(mask.layout.offsets), pairwise(live), strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorPart:
    """The part of a list of live positions that is in one tensor.

    Parameters
    ----------
    tensor : TensorSpec
    chosen : slice
        Which of the positions.
    live : ndarray, bool, shape (tensor.size,), or None where all of it lives
    """

    tensor: TensorSpec
    chosen: slice
    live: NDArray[np.bool_] | None
    _first: int
    _positions: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of positions in the tensor."""
        return int(self.chosen.stop - self.chosen.start)

    def places(self) -> NDArray[np.int64]:
        """Return where in the tensor the positions are, pruned entries counted, shape ``(size,)``."""
        places = self._positions[self.chosen] - self._first
        return places if self.live is None or not places.size else np.flatnonzero(self.live)[places]


def by_tensor(positions: NDArray[np.int64], *, mask: Mask) -> list[TensorPart]:
    """Cut ascending live positions into tensors."""
    ends = np.searchsorted(positions, np.cumsum(mask.lengths)).tolist()
    return [
        TensorPart(
            tensor=tensor,
            chosen=slice(*chosen),
            # From its counts a mask knows it: to look at every entry takes as long as some of the coding.
            live=None if kept.stop - kept.start == tensor.size else mask.live[flat],
            _first=kept.start,
            _positions=positions,
        )
        for tensor, chosen, (flat, kept) in zip(
            mask.layout.tensors, pairwise([0, *ends]), tensor_slices(mask), strict=True
        )
    ]


def fit_all_levels(
    positions: NDArray[np.int64],
    magnitudes: NDArray[np.signedinteger[Any]],
    *,
    mask: Mask,
    flat: bool = False,
) -> list[Levels]:
    """Choose the levels of every tensor, for codes in the live vector; a single one each if `flat`."""
    return [
        fit_levels(part.places(), magnitudes[part.chosen], tensor=part.tensor, live=part.live, flat=flat)
        for part in by_tensor(positions, mask=mask)
    ]


def classes_at(positions: NDArray[np.int64], levels: list[Levels], *, mask: Mask) -> NDArray[np.uint8]:
    """Return the classes of some live entries, which ascend; for all of them `live_classes` is sooner."""
    found = np.empty(positions.size, np.uint8)
    table = _class_table().reshape(-1)
    for part, entries in zip(levels, by_tensor(positions, mask=mask), strict=True):
        _, columns, cell = geometry(entries.tensor)
        cells = entries.places() // cell
        of_rows = cells // columns
        pairs = part.rows[of_rows] if part.rows.size > 1 else np.full(cells.size, part.rows[0])
        pairs *= np.uint8(NUM_LEVELS)
        pairs += part.columns[cells - of_rows * columns] if part.columns.size > 1 else part.columns
        found[entries.chosen] = table[pairs]
    return found


def live_classes(levels: list[Levels], *, mask: Mask) -> NDArray[np.uint8]:
    """Return the class of each live entry, shape ``(num_live,)``."""
    classes = np.empty(mask.num_live, np.uint8)
    for part, tensor, (flat, kept) in zip(levels, mask.layout.tensors, tensor_slices(mask), strict=True):
        whole = kept.stop - kept.start == tensor.size
        of_tensor = spread(part, tensor=tensor)
        classes[kept] = of_tensor if whole else of_tensor[mask.live[flat]]
    return classes
