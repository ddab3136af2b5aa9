"""Kills at random moments: every run ends, and with the weights of a run that nothing has happened to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.light.schedule import CLIENTS, ROUNDS, Ending, run_schedule, schedule_of

DEFAULT_SEEDS = range(3)
# HEDGEROW_SEEDS=40:60 runs a part of them.
FIRST, LAST = (int(number) for number in os.environ.get("HEDGEROW_SEEDS", "0:100").split(":"))


@pytest.fixture(scope="module")
def undisturbed(open_directory: Callable[[], Path]) -> Ending:
    ending = run_schedule((), folder=open_directory())
    assert ending.killed == ()
    return ending


def check(seed: int, undisturbed: Ending, folder: Path) -> None:
    ending = run_schedule(schedule_of(seed), folder=folder)
    print(f"\nseed {seed}: {', '.join(ending.killed)} killed, {ending.seconds:.1f} s")
    assert ending.killed
    assert ending.weights == undisturbed.weights
    # Each update once, and the same to the byte.
    assert ending.updates == undisturbed.updates
    assert set(ending.updates.values()) == {1}
    assert ending.acked <= {(number, name) for number, name, _ in ending.updates}


def test_an_undisturbed_run_takes_each_update_once(undisturbed: Ending) -> None:
    expected = {(number, name) for number in range(1, ROUNDS + 1) for name in CLIENTS}
    assert {(number, name) for number, name, _ in undisturbed.updates} == expected
    assert undisturbed.acked == expected
    assert set(undisturbed.updates.values()) == {1}


@pytest.mark.parametrize("seed", DEFAULT_SEEDS)
def test_kills_change_nothing(seed: int, undisturbed: Ending, open_directory: Callable[[], Path]) -> None:
    check(seed, undisturbed, open_directory())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_hundred_schedules_of_kills_change_nothing(
    seed: int, undisturbed: Ending, open_directory: Callable[[], Path]
) -> None:
    check(seed, undisturbed, open_directory())
