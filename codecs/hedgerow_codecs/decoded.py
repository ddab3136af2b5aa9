"""A decoded update: integers on a grid where there is one, floats where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import CodecError
from hedgerow_codecs.mask import Mask

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedUpdate:
    """What a payload says, before it is turned into floats.

    Either *integer form*: live entry ``positions[i]`` is ``codes[i] * steps[t]``, where ``t`` is its tensor,
    and all others are zero; or *float form*: `dense` holds every live entry.

    A step is on the grid ``(4 + m) * 2**e`` with ``m`` in 0..3 and ``|code| < 2**21``, so that each product
    is exact in float32. The float64 sums of `add_to` are exact, and thus independent of their order,
    as long as they stay below 2**53 units of the finest ``2**e`` among the updates.

    Parameters
    ----------
    mask : Mask
    positions : ndarray, int64, shape (k,), or None in float form
        Places in the live vector, strictly ascending.
    codes : ndarray, int32, shape (k,), or None in float form
    steps : ndarray, float64, shape (num_tensors,), or None in float form
        Grid step of each tensor; 0 where the tensor carries no codes.
    dense : ndarray, float32, shape (num_live,), or None in integer form
    num_saturated : int
        Entries that were cut to the range of their codec, as the sender says.
    """

    mask: Mask
    positions: NDArray[np.int64] | None = field(default=None, repr=False)
    codes: NDArray[np.int32] | None = field(default=None, repr=False)
    steps: NDArray[np.float64] | None = field(default=None, repr=False)
    dense: NDArray[np.float32] | None = field(default=None, repr=False)
    num_saturated: int = 0

    def __post_init__(self) -> None:
        integer = self.positions is not None and self.codes is not None and self.steps is not None
        if integer == (self.dense is not None):
            raise CodecError("a decoded update has either positions, codes and steps, or dense values")
        if self.positions is not None and self.codes is not None and self.steps is not None:
            if self.positions.shape != self.codes.shape or self.codes.ndim != 1:
                raise CodecError("a decoded update needs one code per position")
            if self.steps.shape != (len(self.mask.layout.tensors),):
                raise CodecError("a decoded update needs one step per tensor")
        elif self.dense is not None and self.dense.shape != (self.mask.num_live,):
            raise CodecError(f"a decoded update needs {self.mask.num_live} values, got {self.dense.shape}")

    @property
    def is_integer(self) -> bool:
        """Whether the update is in integer form."""
        return self.dense is None

    @property
    def num_nonzero(self) -> int:
        """Number of entries that are not zero."""
        if self.codes is not None:
            return int(np.count_nonzero(self.codes))
        assert self.dense is not None
        return int(np.count_nonzero(self.dense))

    @property
    def largest(self) -> float:
        """Largest magnitude among the entries; NaN if one is NaN. Takes O(k) for the integer form."""
        if self.dense is not None:
            # Not the maximum of magnitudes, which would be a copy of them all.
            return float(max(self.dense.max(initial=0), -self.dense.min(initial=0)))
        return max((float(np.abs(entries).max()) for _, entries in self._products(np.float64)), default=0.0)

    @property
    def norm(self) -> float:
        """Euclidean norm of the entries; its last bits may differ from machine to machine.

        Takes O(k) for the integer form.
        """
        if self.dense is not None:
            blocks = (self.dense[start : start + _BLOCK] for start in range(0, self.dense.size, _BLOCK))
            return math.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks))
        return math.sqrt(sum(float(entries @ entries) for _, entries in self._products(np.float64)))

    def values(self) -> NDArray[np.float32]:
        """Return the live vector, float32, shape ``(num_live,)``; the same bits on every machine."""
        if self.dense is not None:
            return self.dense.copy()
        # Not zeros(): before numpy 2 its memory comes in small pages, each of which takes time.
        values = np.full(self.mask.num_live, 0, np.float32)
        for places, entries in self._products(np.float32):
            values[places] = entries
        return values

    def add_to(self, total: NDArray[np.float64], *, weight: int) -> None:
        """Add ``weight`` times the update to a running sum, in place.

        Takes O(k) for the integer form.

        Parameters
        ----------
        total : ndarray, float64, shape (num_live,)
        weight : int
            For instance the number of samples behind the update; 0 to 2**31 inclusive.

        Raises
        ------
        CodecError
            `total` is of another shape or dtype, or `weight` out of range.
        """
        if total.shape != (self.mask.num_live,) or total.dtype != np.float64:
            raise CodecError(
                f"total must be float64 of shape ({self.mask.num_live},), got {total.dtype} of {total.shape}"
            )
        if not 0 <= weight <= 2**31:
            raise CodecError(f"weight must be from 0 to 2**31, got {weight}")
        if self.dense is not None:
            total += np.multiply(self.dense, weight, dtype=np.float64)
        else:
            for places, entries in self._products(np.float64, weight=weight):
                total[places] += entries

    def _products(
        self, dtype: type[np.floating[Any]], *, weight: int = 1
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating[Any]]]]:
        """Yield positions and their entries times a weight, in blocks, none of them empty.

        Products are exact: in float64 for every weight (3 bits times 32), in float32 for a weight of 1.
        """
        assert self.positions is not None
        assert self.codes is not None
        assert self.steps is not None
        begin = 0
        ends = np.searchsorted(self.positions, np.cumsum(self.mask.lengths)).tolist()
        for end, step in zip(ends, self.steps * weight, strict=True):
            for start in range(begin, end, _BLOCK):
                chosen = slice(start, min(start + _BLOCK, end))
                yield self.positions[chosen], np.multiply(self.codes[chosen], step, dtype=dtype)
            begin = end
