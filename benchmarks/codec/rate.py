"""Bytes at a signal-to-noise ratio: a coder is tried at many steps, and what lies between interpolated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

STEPS_PER_OCTAVE = 6
"""One step is about one decibel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A coded vector: its size, its distortion, and the entropy of its symbols where that is known."""

    num_bytes: float
    snr_db: float
    entropy_bytes: float | None = None


@dataclass(slots=True, kw_only=True)
class Curve:
    """A coder on one vector, at steps of ``2**(k / STEPS_PER_OCTAVE)`` root mean squares, as far as needed.

    Parameters
    ----------
    coder : callable
        Log2 of a step, in root mean squares of the vector, to a `Point`.
    low, high : float
        Steps, log2, beyond which the coder is not tried.
    around : int
        How many steps beyond the first crossing found are tried for a better one.
    """

    coder: Callable[[float], Point]
    low: float
    high: float
    around: int = 2
    _tried: dict[int, Point] = field(default_factory=dict)

    def at(self, target_db: float) -> Point | None:
        """Return the point of fewest bytes at a ratio; None where the coder does not get there.

        Updates that hold one value many times (Adam's do) make the ratio rise and fall with the step. So all
        crossings within `around` steps of the first one found count, and points that are better than asked
        for.
        """
        first = self._crossing(target_db)
        if first is None:
            return None
        near = [
            self._point(k) for k in range(first - self.around, first + self.around + 2) if self._allowed(k)
        ]
        found = [point for point in near if point.snr_db >= target_db]
        for fine, coarse in pairwise(near):
            if min(coarse.snr_db, fine.snr_db) < target_db <= max(coarse.snr_db, fine.snr_db):
                found.append(interpolate(coarse, fine, target_db))
        return min(found, key=lambda point: point.num_bytes)

    def _crossing(self, target_db: float) -> int | None:
        """Return the first step found that reaches the ratio while the next coarser one does not."""
        k = round(STEPS_PER_OCTAVE * (2.0 - target_db / 6.02))
        k = min(max(k, math.ceil(self.low * STEPS_PER_OCTAVE)), math.floor(self.high * STEPS_PER_OCTAVE))
        finer = self._point(k).snr_db < target_db
        while True:
            ahead = k - 1 if finer else k + 1
            if not self._allowed(ahead):
                return None
            if (self._point(ahead).snr_db >= target_db) is finer:
                return ahead if finer else k
            k = ahead

    def _allowed(self, k: int) -> bool:
        return self.low <= k / STEPS_PER_OCTAVE <= self.high

    def _point(self, k: int) -> Point:
        if k not in self._tried:
            self._tried[k] = self.coder(k / STEPS_PER_OCTAVE)
        return self._tried[k]


def interpolate(coarse: Point, fine: Point, target_db: float) -> Point:
    """Return the point between two, linear in decibels and log bytes."""
    share = (target_db - coarse.snr_db) / (fine.snr_db - coarse.snr_db)

    def between(a: float, b: float) -> float:
        return math.exp(math.log(a) * (1 - share) + math.log(b) * share)

    entropy = None
    if coarse.entropy_bytes and fine.entropy_bytes:
        entropy = between(coarse.entropy_bytes, fine.entropy_bytes)
    return Point(num_bytes=between(coarse.num_bytes, fine.num_bytes), snr_db=target_db, entropy_bytes=entropy)
