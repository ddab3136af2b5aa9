"""Energy classes: where in a tensor codes are to be expected, from the levels of its rows and columns.

Whole filters rest and whole inputs are dark: a row and a column of a weight tensor predict an entry far
better than its neighbours do. Each row and each column has a level, an octave of its mean magnitude; their
sum is the class of an entry. SPEC.md, section 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

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
        sums = self.rows[:, None].astype(np.int16) + self.columns[None, :] - EVEN
        sums = np.clip(sums, 1, NUM_CLASSES - 1)
        return np.where((self.rows[:, None] == 0) | (self.columns[None, :] == 0), 0, sums).astype(np.uint8)


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
    places: NDArray[np.int64], magnitudes: NDArray[np.int64], *, tensor: TensorSpec, live: NDArray[np.bool_]
) -> Levels:
    """Choose the levels that are likely to cost the fewest bytes.

    Parameters
    ----------
    places : ndarray, int64, shape (k,)
        Of the codes in the tensor.
    magnitudes : ndarray, int64, shape (k,)
    tensor : TensorSpec
    live : ndarray, bool, shape (size,)
    """
    if not places.size:
        return Levels(rows=np.zeros(1, np.uint8), columns=np.full(1, EVEN, np.uint8))
    rows, columns, cell = geometry(tensor)
    # Magnitudes weigh as their number of bits would: one outlier must not raise the level of its row.
    weights = np.minimum(magnitudes, 16).astype(np.float64)
    room = _room(live, rows=rows, columns=columns, cell=cell)
    cells = places // cell
    mass = np.bincount(cells, weights, minlength=rows * columns).reshape(rows, columns).astype(np.float64)
    candidates = [
        _levels(mass, room, by_row=by_row, by_column=by_column)
        for by_row in ((False, True) if rows > 1 else (False,))
        for by_column in ((False, True) if columns > 1 else (False,))
    ]
    return min(candidates, key=lambda levels: _cost(levels, mass=mass, room=room))


def _room(live: NDArray[np.bool_], *, rows: int, columns: int, cell: int) -> NDArray[np.float64]:
    if live.all():
        return np.broadcast_to(np.float64(cell), (rows, columns))
    room: NDArray[np.float64] = live.reshape(rows, columns, cell).sum(axis=2, dtype=np.float64)
    return room


def _levels(mass: NDArray[np.float64], room: NDArray[np.float64], *, by_row: bool, by_column: bool) -> Levels:
    column_levels = np.full(1, EVEN, np.uint8)
    expected = room
    if by_column:
        found = mass.sum(axis=0)
        fair = room.sum(axis=0) * (mass.sum() / room.sum())
        octaves = np.rint(np.log2((found + _SHRINK) / (fair + _SHRINK)))
        column_levels = np.where(found > 0, np.clip(octaves + EVEN, 1, NUM_LEVELS - 1), 0).astype(np.uint8)
        expected = room * np.where(found > 0, np.exp2(column_levels - float(EVEN)), 0)
    axis = 1 if by_row else None
    found = np.atleast_1d(mass.sum(axis=axis))
    fair = np.atleast_1d(expected.sum(axis=axis))
    octaves = np.rint(np.log2(np.maximum(found, 1) / np.maximum(fair, 1e-9)))
    row_levels = np.where(found > 0, np.clip(octaves + UNIT_CLASS, 1, NUM_CLASSES - 1), 0).astype(np.uint8)
    return Levels(rows=row_levels, columns=column_levels)


def _cost(levels: Levels, *, mass: NDArray[np.float64], room: NDArray[np.float64]) -> float:
    """Estimate bits: geometric magnitudes in each class, and the entropy of the levels' differences."""
    classes = np.broadcast_to(levels.classes(), mass.shape).reshape(-1)
    rooms = np.bincount(classes, room.reshape(-1), minlength=NUM_CLASSES)[1:]
    means = np.bincount(classes, mass.reshape(-1), minlength=NUM_CLASSES)[1:] / np.maximum(rooms, 1e-9)
    means = np.maximum(means, 1e-9)
    bits = float(np.sum(rooms * (np.log2(1 + means) + means * np.log2(1 + 1 / means))))
    for side in (levels.rows, levels.columns):
        counts = np.bincount(side)
        shares = counts[counts > 0] / side.size
        bits -= side.size * float(np.sum(shares * np.log2(shares)))
        bits += math.log2(side.size) * (len(shares) - 1)
    return bits


def _tensor_slices(mask: Mask) -> list[tuple[slice, slice]]:
    """Return each tensor's place in the flat and in the live vector."""
    live = np.cumsum((0, *mask.lengths)).tolist()
    return [
        (slice(*flat), slice(*kept))
        for flat, kept in zip(pairwise(mask.layout.offsets), pairwise(live), strict=True)
    ]


def fit_all_levels(
    positions: NDArray[np.int64], magnitudes: NDArray[np.int64], *, mask: Mask
) -> list[Levels]:
    """Choose the levels of every tensor, for codes at positions of the live vector."""
    dense = mask.num_live == mask.layout.num_parameters
    ends = np.searchsorted(positions, np.cumsum(mask.lengths)).tolist()
    levels, start = [], 0
    for tensor, (flat, kept), end in zip(mask.layout.tensors, _tensor_slices(mask), ends, strict=True):
        places = positions[start:end] - kept.start
        live = mask.live[flat]
        if not dense and places.size:
            places = np.flatnonzero(live)[places]
        levels.append(fit_levels(places, magnitudes[start:end], tensor=tensor, live=live))
        start = end
    return levels


def live_classes(levels: list[Levels], *, mask: Mask) -> NDArray[np.uint8]:
    """Return the class of each live entry, shape ``(num_live,)``."""
    classes = np.empty(mask.num_live, np.uint8)
    for part, tensor, (flat, kept) in zip(levels, mask.layout.tensors, _tensor_slices(mask), strict=True):
        whole = kept.stop - kept.start == tensor.size
        of_tensor = spread(part, tensor=tensor)
        classes[kept] = of_tensor if whole else of_tensor[mask.live[flat]]
    return classes
