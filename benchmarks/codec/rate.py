"""Bytes at a signal-to-noise ratio: evaluate a coder at steps until two close ones lie on either side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

CLOSE_DB = 0.3
_MAX_TRIALS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A coded vector: its size, its distortion, and the entropy of its symbols where that is known."""

    num_bytes: float
    snr_db: float
    entropy_bytes: float | None = None


@dataclass(slots=True, kw_only=True)
class Curve:
    """A coder on one vector, remembered at every step it was tried at.

    Parameters
    ----------
    coder : callable
        Log2 of a step, in root mean squares of the vector, to a `Point`.
    low, high : float
        Steps, log2, beyond which the coder is not tried.
    """

    coder: Callable[[float], Point]
    low: float = -9.0
    high: float = 6.0
    _tried: dict[float, Point] = field(default_factory=dict)

    def at(self, target_db: float) -> Point | None:
        """Return the point at a ratio, log bytes interpolated linearly between two that were tried.

        The two are at most `CLOSE_DB` apart, unless the coder's ratio jumps over the target. None where the
        coder does not get there.
        """
        below, above = self._bracket(target_db)
        for _ in range(_MAX_TRIALS):
            if below is None or above is None:
                return None
            coarse, fine = self._tried[below], self._tried[above]
            if fine.snr_db - coarse.snr_db <= CLOSE_DB or below - above < 1e-4:
                break
            share = (target_db - coarse.snr_db) / (fine.snr_db - coarse.snr_db)
            # Kept off the ends, so that each trial takes away something.
            self._try(below + (above - below) * min(max(share, 0.1), 0.9))
            below, above = self._bracket(target_db)
        return interpolate(self._tried[below], self._tried[above], target_db)

    def _bracket(self, target_db: float) -> tuple[float | None, float | None]:
        """Return the nearest steps tried whose ratios are below and not below the target."""
        step = min(max(2.0 - target_db / 6.02, self.low), self.high)
        while not (side := self._sides(target_db))[0] or not side[1]:
            tried = sorted(self._tried)
            if tried:
                step = max(tried) + 0.5 if not side[0] else min(tried) - 0.5
                if not self.low <= step <= self.high:
                    return None, None
            self._try(step)
        below, above = side
        # Where the ratio wavers, take the pair that is nearest in step.
        return min(
            ((b, a) for b in below for a in above),
            key=lambda pair: (abs(pair[0] - pair[1]), self._tried[pair[1]].snr_db),
        )

    def _sides(self, target_db: float) -> tuple[list[float], list[float]]:
        below = [step for step, point in self._tried.items() if point.snr_db < target_db]
        above = [step for step, point in self._tried.items() if point.snr_db >= target_db]
        return below, above

    def _try(self, step: float) -> None:
        self._tried[step] = self.coder(step)


def interpolate(coarse: Point, fine: Point, target_db: float) -> Point:
    """Return the point between two, linear in decibels and log bytes."""
    if coarse.snr_db == fine.snr_db:
        return fine
    share = (target_db - coarse.snr_db) / (fine.snr_db - coarse.snr_db)

    def between(a: float, b: float) -> float:
        return math.exp(math.log(a) * (1 - share) + math.log(b) * share)

    entropy = None
    if coarse.entropy_bytes and fine.entropy_bytes:
        entropy = between(coarse.entropy_bytes, fine.entropy_bytes)
    return Point(num_bytes=between(coarse.num_bytes, fine.num_bytes), snr_db=target_db, entropy_bytes=entropy)
