"""Schedules: which density a round trains under.

A schedule is a function of the round alone, so a restarted coordinator finds the same density again.
"""

import math
from collections.abc import Callable, Mapping
from typing import Protocol


class Timetable(Protocol):
    """What a schedule reads: densities in (0, 1] and rounds from 1, both ends included."""

    @property
    def density(self) -> float: ...
    @property
    def initial_density(self) -> float: ...
    @property
    def start_round(self) -> int: ...
    @property
    def end_round(self) -> int: ...
    @property
    def every(self) -> int: ...


def cubic(timetable: Timetable, round_number: int) -> float:
    """Fall from the initial to the final density, fast at first (Zhu & Gupta 2017, equation 1, for density).

    Up to `start_round` the density is `initial_density`, from `end_round` on it is `density`. Between them it
    moves only every `every` rounds.

    >>> from types import SimpleNamespace
    >>> table = SimpleNamespace(density=0.2, initial_density=1.0, start_round=2, end_round=6, every=2)
    >>> [round(cubic(table, number), 3) for number in range(1, 8)]
    [1.0, 1.0, 1.0, 0.3, 0.3, 0.2, 0.2]
    """
    if round_number >= timetable.end_round:
        return timetable.density
    if round_number <= timetable.start_round:
        return timetable.initial_density
    elapsed = round_number - timetable.start_round
    elapsed -= elapsed % timetable.every
    remaining = 1.0 - elapsed / (timetable.end_round - timetable.start_round)
    # Products, not `** 3`: libm's pow may differ in the last bit between machines.
    fall = remaining * remaining * remaining
    return timetable.density + (timetable.initial_density - timetable.density) * fall


def one_shot(timetable: Timetable, round_number: int) -> float:
    """Keep the initial density before `start_round` and the final one from then on."""
    return timetable.density if round_number >= timetable.start_round else timetable.initial_density


def constant(timetable: Timetable, round_number: int) -> float:  # noqa: ARG001 - a Schedule
    """Keep the final density from the first round on; `initial_density` is not used."""
    return timetable.density


def geometric(timetable: Timetable, round_number: int) -> float:
    """Keep the same share of what is left at every step: iterative pruning (Frankle & Carbin 2019).

    >>> from types import SimpleNamespace
    >>> table = SimpleNamespace(density=0.25, initial_density=1.0, start_round=1, end_round=5, every=2)
    >>> [geometric(table, number) for number in range(1, 7)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    share = _elapsed(timetable, round_number)
    if share in (0.0, 1.0):
        return timetable.density if share else timetable.initial_density
    return _settled(timetable.initial_density * (timetable.density / timetable.initial_density) ** share)


def cosine(timetable: Timetable, round_number: int) -> float:
    """Fall along half a cosine: slowly at first and at the end."""
    share = _elapsed(timetable, round_number)
    if share in (0.0, 1.0):
        return timetable.density if share else timetable.initial_density
    fall = (1.0 + math.cos(math.pi * share)) / 2.0
    return _settled(timetable.density + (timetable.initial_density - timetable.density) * fall)


def _elapsed(timetable: Timetable, round_number: int) -> float:
    """Return the share of the way that is done, 0 to 1; it moves only every `every` rounds."""
    if round_number >= timetable.end_round:
        return 1.0
    if round_number <= timetable.start_round:
        return 0.0
    elapsed = round_number - timetable.start_round
    elapsed -= elapsed % timetable.every
    return elapsed / (timetable.end_round - timetable.start_round)


def _settled(density: float) -> float:
    """Round away the last bits, in which pow and cos differ between machines."""
    return round(density, 12)


Schedule = Callable[[Timetable, int], float]
SCHEDULES: Mapping[str, Schedule] = {
    "cubic": cubic,
    "geometric": geometric,
    "cosine": cosine,
    "one-shot": one_shot,
    "constant": constant,
}
# Schedules under which the density is an outcome.
OUTCOME_SCHEDULES: Mapping[str, str] = {"adaptive": "what gains more than the mean for its time (PruneFL)"}
