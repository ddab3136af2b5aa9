"""Pruning that reacts to the measured metric: held, resumed, reverted, and the same after a restart."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_coordinator.plan import EvaluateSettings, Plan
from hedgerow_coordinator.pruning import PruningPolicy, Watch, react

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]


@pytest.mark.parametrize(
    ("watch", "reaction", "can_revert", "action", "held", "stopped"),
    [
        (Watch(last=0.90, best=0.94), "stop", False, "", False, False),
        (Watch(last=0.89, best=0.94), "stop", False, "", False, False),
        (Watch(last=0.88, best=0.94), "stop", True, "hold", True, False),
        (Watch(last=0.88, best=0.94, held=True), "stop", True, "", True, False),
        (Watch(last=0.90, best=0.94, held=True), "stop", True, "resume", False, False),
        (Watch(last=0.88, best=0.94), "revert", True, "revert", False, True),
        (Watch(last=0.88, best=0.94), "revert", False, "hold", True, False),
        (Watch(last=0.10, best=0.94, stopped=True), "revert", True, "", False, True),
        (Watch(last=None, best=0.94), "stop", True, "", False, False),
        (Watch(last=0.5, best=None), "stop", True, "", False, False),
        # A loss, with its sign turned.
        (Watch(last=-0.30, best=-0.20), "stop", False, "hold", True, False),
    ],
)
def test_decisions(
    watch: Watch, reaction: str, can_revert: bool, action: str, held: bool, stopped: bool
) -> None:
    after, found = react(watch, tolerance=0.05, reaction=reaction, can_revert=can_revert)
    assert (found, after.held, after.stopped) == (action, held, stopped)
    assert react(watch, tolerance=0.0, reaction=reaction, can_revert=can_revert) == (watch, "")


def test_the_best_is_remembered_in_notes() -> None:
    watch, _ = react(Watch(last=0.7, best=0.6), tolerance=0.1, reaction="stop", can_revert=False)
    assert watch.best == 0.7
    assert Watch.of_notes(watch.to_notes()) == watch
    assert Watch.of_notes({}) == Watch()


def falling(make_plan: MakePlan, *, reaction: str, rounds: int = 9, **options: Any) -> Plan:
    """A density of 1, then .9, .8 and so on, one step a round."""
    policy = PruningPolicy(
        schedule="cubic",
        budget="uniform",
        density=0.5,
        start_round=1,
        end_round=7,
        tolerance=0.05,
        reaction=reaction,
        **options,
    )
    plan = make_plan(rounds=rounds)
    return replace(plan, pruning=policy, evaluate=EvaluateSettings(data="x.npz"))


def measured(rig: Any, values: dict[int, float]) -> None:
    """Let version n have the metric `values[n]`, and .9 where none is given."""

    def evaluate(weights: np.ndarray) -> tuple[float, None]:
        return values.get(rig.coordinator.state.version + 1, 0.9), None

    rig.coordinator._federation.evaluate = evaluate


def densities(rig: Any) -> list[float]:
    return [round(record.density, 3) for record in rig.store.rounds() if record.round > 0]


def events(rig: Any) -> list[tuple[str, str]]:
    return [(e.kind, e.detail) for e in rig.store.events() if e.kind.startswith("pruning")]


def test_a_drop_holds_the_density_until_the_metric_is_back(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = falling(make_plan, reaction="stop")
    quiet, rig = make_rig(plan), make_rig(plan)
    measured(quiet, {})
    quiet.start()
    quiet.to_end()
    measured(rig, {2: 0.84, 3: 0.8})
    rig.start()
    rig.to_end()
    free, held = densities(quiet), densities(rig)
    # Versions 2 and 3 are too bad: rounds 4 and 5 keep the mask of round 3; then the schedule goes on.
    assert held[:3] == free[:3]
    assert held[3:5] == [free[2]] * 2
    assert held[5:] == free[3:7]
    assert free[2] > free[3]
    assert [kind for kind, _ in events(rig)] == ["pruning held", "pruning resumed"]
    assert "version 2 has 0.8400, the best had 0.9000: the density stays at" in events(rig)[0][1]
    assert not events(quiet)


def test_a_revert_brings_mask_and_values_back(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(falling(make_plan, reaction="revert"))
    measured(rig, {3: 0.7})
    rig.start()
    rig.until_round(3)
    before = rig.coordinator.state
    rig.until_round(4)
    pruned = rig.coordinator.state
    dropped = before.mask.live & ~pruned.mask.live
    assert dropped.any()
    # Version 3 was made by round 3, and what it dropped had these values then.
    values = rig.coordinator.state.pruning["undo-values"]
    assert len(values) == np.count_nonzero(dropped)
    rig.until_round(5)
    after = rig.coordinator.state
    assert after.mask == before.mask
    assert np.array_equal(after.weights[dropped], values)
    assert after.weights[dropped].any()
    assert set(after.pruning) == set()
    rig.to_end()
    # Nothing is pruned after that, and all clients hold the mask that came back.
    assert rig.coordinator.state.mask == before.mask
    assert {rig.model_of(name) for name in "abc"} == {rig.published}
    assert [kind for kind, _ in events(rig)] == ["pruning reverted"]
    assert "the last change is taken back, from density" in events(rig)[0][1]


def test_a_restart_changes_nothing(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(falling(make_plan, reaction="revert"))
        values = {2: 0.8, 3: 0.7}
        measured(rig, values)
        rig.start()
        for number in (3, 4, 5):
            rig.until_round(number)
            if restarts:
                rig.restart_coordinator()
                measured(rig, values)
        rig.to_end()
        outcomes.append((rig.outcome, densities(rig), [kind for kind, _ in events(rig)]))
    assert outcomes[0] == outcomes[1]


def test_scores_are_asked_for_by_the_late_schedule(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(falling(make_plan, reaction="stop", score="fisher", every=2))
    measured(rig, {1: 0.9, 2: 0.5, 3: 0.5})
    rig.start()
    rig.to_end()
    asked = sorted({request.round for _, request, _ in rig.fake.done if request.question is not None})
    # No scores come, so they are asked for again and again; but not while the density is held.
    assert asked == [2, 5, 6, 7, 8]
