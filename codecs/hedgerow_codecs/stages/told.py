"""The entries that the coder tells: those in a row and a column where there may be codes. SPEC.md, 5.2.

Rows and columns that rest are most of some updates. What is told of the others lies side by side, so nothing
here takes the time of looking at every entry to find out which they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.layout import TensorSpec
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.energy import Levels, geometry, spread, tensor_slices


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """The live entries whose class by some levels is not 0, in ascending order.

    Parameters
    ----------
    bases : ndarray, uint8, shape (n,)
        Their classes less 1: the base contexts in which they are coded.
    """

    bases: NDArray[np.uint8]
    _ends: tuple[int, ...]
    _parts: tuple[_Grid | _Places, ...]

    @staticmethod
    def by(levels: Sequence[Levels], *, mask: Mask) -> Told:
        """Return what levels tell, one of each tensor."""
        parts: list[_Grid | _Places] = []
        classes = [np.zeros(0, np.uint8)]
        for level, tensor, (flat, kept) in zip(levels, mask.layout.tensors, tensor_slices(mask), strict=True):
            if kept.stop - kept.start == tensor.size:
                grid = _Grid.of(level, tensor=tensor, first=kept.start)
                classes.append(grid.classes(level))
                parts.append(grid)
            else:
                of_live = spread(level, tensor=tensor)[mask.live[flat]]
                is_told = of_live > 0
                classes.append(of_live[is_told])
                parts.append(_Places(first=kept.start, is_told=is_told))
        ends = np.cumsum([0, *(part.size for part in parts)]).tolist()
        bases = np.concatenate(classes)
        bases -= np.uint8(1)
        return Told(bases=bases, _ends=tuple(ends), _parts=tuple(parts))

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where in the live vector some of the entries are.

        Parameters
        ----------
        indices : ndarray, int64, shape (k,)
            Ascending, from 0 to n - 1.
        """
        found = np.empty(indices.size, np.int64)
        for begin, part, chosen in self._cut(indices, self._ends):
            found[chosen] = part.positions(indices[chosen] - begin)
        return found

    def indices(self, positions: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Undo `positions`, tensor by tensor: yield which of the positions, and their indices.

        Parameters
        ----------
        positions : ndarray, int64, shape (k,)
            Ascending, of entries that are told.
        """
        firsts = [*(part.first for part in self._parts), np.iinfo(np.int64).max]
        for begin, (_, part, chosen) in zip(self._ends, self._cut(positions, firsts), strict=False):
            yield chosen, part.indices(positions[chosen] - part.first) + begin

    def _cut(
        self, ascending: NDArray[np.int64], bounds: Sequence[int]
    ) -> Iterator[tuple[int, _Grid | _Places, slice]]:
        cuts = np.searchsorted(ascending, bounds).tolist()
        for begin, part, (start, end) in zip(bounds, self._parts, pairwise(cuts), strict=False):
            yield begin, part, slice(start, end)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Places:
    """Of a tensor with pruned entries: which of its live ones are told, a byte each."""

    first: int
    is_told: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.is_told))

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.flatnonzero(self.is_told)[indices] + self.first

    def indices(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(np.flatnonzero(self.is_told), places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grid:
    """Of a tensor that lives as a whole: rows, and places in a row, that are told.

    Parameters
    ----------
    first : int
        The tensor's first live position.
    rows : ndarray, int64, shape (num_told_rows,)
    across : ndarray, int64, shape (told_width,), or None for all places of a row
    width : int
        Of a row, what is not told counted.
    """

    first: int
    rows: NDArray[np.int64]
    across: NDArray[np.int64] | None
    width: int

    @staticmethod
    def of(levels: Levels, *, tensor: TensorSpec, first: int) -> _Grid:
        rows, columns, cell = geometry(tensor)
        told_rows = np.flatnonzero(np.broadcast_to(levels.rows > 0, rows))
        open_columns = levels.columns > 0
        across = None
        if not open_columns.all():
            across = np.flatnonzero(np.repeat(np.broadcast_to(open_columns, columns), cell))
        return _Grid(first=first, rows=told_rows, across=across, width=columns * cell)

    @property
    def size(self) -> int:
        return self.rows.size * self._told_width

    @property
    def _told_width(self) -> int:
        return self.width if self.across is None else self.across.size

    def classes(self, levels: Levels) -> NDArray[np.uint8]:
        open_rows, open_columns = levels.rows[levels.rows > 0], levels.columns[levels.columns > 0]
        grid = Levels(rows=open_rows, columns=open_columns).classes()
        if levels.rows.size == 1:
            grid = np.repeat(grid, self.rows.size, axis=0)
        if grid.size == self.size:
            return grid.reshape(-1)
        # A level of a column, or of all columns, is that of all entries in its cells.
        return np.repeat(grid, self.size // grid.size)

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        told_starts = np.arange(self.rows.size) * self._told_width
        starts = self.rows * self.width + self.first
        counts = _counts(indices, told_starts)
        if self.across is None:
            return indices + np.repeat(starts - told_starts, counts)
        return self.across[indices - np.repeat(told_starts, counts)] + np.repeat(starts, counts)

    def indices(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        told_starts = np.arange(self.rows.size) * self._told_width
        starts = self.rows * self.width
        counts = _counts(places, starts)
        if self.across is None:
            return places - np.repeat(starts - told_starts, counts)
        numbers = np.zeros(self.width, np.int64)
        numbers[self.across] = np.arange(self.across.size)
        return numbers[places - np.repeat(starts, counts)] + np.repeat(told_starts, counts)


def _counts(ascending: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many there are from each start to the next."""
    return np.diff(np.searchsorted(ascending, starts), append=ascending.size)
