"""Targets: pruning goes on until what is measured fits, and the journal says when, or that it does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_coordinator import SettingError
from hedgerow_coordinator.plan import EvaluateSettings, Plan
from hedgerow_coordinator.pruning import PruningPolicy, Watch
from hedgerow_coordinator.pruning.target import Target, aim

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
# Around 4 bytes of float32 for each live weight: header, digests and checksum.
FRAME = 17


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"uplnk_bytes": 1}, "target has no key uplnk_bytes; did you mean uplink_bytes?"),
        ({"colour": 1}, "target has no key colour; known here: uplink_bytes, devices, file_bytes"),
        ({"uplink_bytes": 0}, "target must give uplink_bytes a number above 0, not 0"),
        ({"uplink_bytes": True}, "target must give uplink_bytes a number above 0, not True"),
        ({"uplink_bytes": "1k"}, "target must give uplink_bytes a number above 0, not '1k'"),
        ({"uplink_bytes": float("nan")}, "a number above 0, not nan"),
        ({"devices": "pi-*"}, "target must bound something: uplink_bytes, file_bytes, zip_bytes"),
        ({"devices": "pi-*", "zip_bytes": 1}, "has devices, whose updates count for uplink_bytes: set that"),
        ({"devices": 3, "uplink_bytes": 1}, "must give devices a pattern of names, not 3"),
        ({"multiply_adds_per_s": 1e9, "zip_bytes": 1}, "which estimates latency_ms: set that, too"),
        ({"latency_ms": 3}, "must not bound latency_ms while channels is 1: zeros among the weights change"),
        ({"file_bytes": 3}, "must not bound file_bytes while channels is 1"),
        ({"memory_mib": 3, "zip_bytes": 5}, "must not bound memory_mib while channels is 1"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(target=table)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "none"}, "must be left out where nothing is pruned"),
        ({"policy": "soft"}, "must be left out where nothing is pruned"),
        ({"density": 1.0}, "must be left out where nothing is pruned"),
        ({"schedule": "constant"}, "with schedule 'constant': it needs one that falls step by step, cosine"),
        ({"schedule": "one-shot"}, "cosine, cubic, geometric"),
        (
            {"schedule": "adaptive", "score": "squared-gradient"},
            "must be left out with schedule 'adaptive'",
        ),
    ],
)
def test_a_target_without_steps_towards_it_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(target={"uplink_bytes": 100}, **changes)
    assert sentence in str(caught.value)


def test_all_bounds_must_hold() -> None:
    target = Target(uplink_bytes=100, zip_bytes=50)
    assert target.is_met({"uplink_bytes": 100}) is None
    assert target.is_met({"uplink_bytes": 100, "zip_bytes": 50}) is True
    assert target.is_met({"uplink_bytes": 100, "zip_bytes": 50.5}) is False
    assert target.told({"uplink_bytes": 1234, "zip_bytes": 50}) == (
        "the largest update of a device has 1,234 bytes of 100, the exported file in a zip has 50 bytes of 50"
    )
    estimate = Target(latency_ms=5, multiply_adds_per_s=2e9)
    assert "one input takes 4.2 ms of 5 (estimated at 2e+09 multiply-adds a second)" in estimate.told(
        {"latency_ms": 4.2}
    )
    assert "(measured on this gateway)" in Target(latency_ms=5).told({"latency_ms": 4.2})


def test_the_largest_update_of_those_that_count_is_measured() -> None:
    updates = [("pi-1", 10), ("pi-2", 30), ("server", 90)]
    assert Target(uplink_bytes=5).uplink_of(updates) == {"uplink_bytes": 90}
    assert Target(uplink_bytes=5, devices="pi-*").uplink_of(updates) == {"uplink_bytes": 30}
    assert Target(uplink_bytes=5, devices="zero-*").uplink_of(updates) == {}


def test_a_miss_is_said_once_and_forgotten_when_it_fits_after_all() -> None:
    target, watch = Target(uplink_bytes=100), Watch()
    said = []
    for measured, may_fall in ((200, True), (150, False), (150, False), (90, False), (110, False)):
        watch, action = aim(watch, target=target, measured={"uplink_bytes": measured}, may_fall=may_fall)
        said.append(action)
    assert said == ["", "miss", "", "meet", "miss"]
    assert Watch.of_notes(watch.to_notes()) == watch


def aiming(make_plan: MakePlan, target: dict[str, object], **policy: Any) -> Plan:
    rounds = policy.pop("rounds", 8)
    plan = make_plan(rounds=rounds, density=0.4, end_round=6)
    if "tolerance" in policy:
        plan = replace(plan, evaluate=EvaluateSettings(data="x.npz"))
    return replace(plan, pruning=replace(plan.pruning, target=target, **policy))


def events_of(rig: Any) -> list[tuple[str, str]]:
    return [(event.kind, event.detail) for event in rig.store.events() if event.kind != "finished"]


def finished(rig: Any) -> Any:
    rig.start()
    rig.to_end()
    assert rig.coordinator.failure is None
    return rig


def sizes_of(rig: Any) -> list[int]:
    records = rig.store.update_records()
    return [max(r.num_bytes for r in records if r.round == number) for number in range(1, 9)]


def test_pruning_stops_when_the_updates_fit(make_plan: MakePlan, make_rig: MakeRig) -> None:
    # The cubic's densities from round 3 on are .653, .475, .409, .4 of 72 weights: 47, 34, 29 and 28.
    rig = finished(make_rig(aiming(make_plan, {"uplink_bytes": 4 * 40 + FRAME})))
    live = [72, 72, 47, 34, 34, 34, 34, 34]
    assert sizes_of(rig) == [4 * count + FRAME for count in live]
    assert rig.coordinator.state.mask.num_live == 34
    assert events_of(rig) == [
        (
            "target met",
            f"the largest update of a device has {4 * 34 + FRAME} bytes of {4 * 40 + FRAME}: "
            "pruning stops at density 0.4722",
        )
    ]
    assert any("pruning stops at density 0.4722" in notice for notice in rig.notices)
    assert [round(r.density, 4) for r in rig.store.rounds()[1:]] == [1, 1, 0.6528] + [0.4722] * 5


def test_a_target_that_is_met_already_prunes_nothing(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = finished(make_rig(aiming(make_plan, {"uplink_bytes": 4 * 72 + FRAME})))
    assert rig.coordinator.state.mask.density == 1
    assert [kind for kind, _ in events_of(rig)] == ["target met"]


def test_a_target_below_the_floor_is_missed_and_said(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = finished(make_rig(aiming(make_plan, {"uplink_bytes": 100})))
    assert rig.coordinator.state.mask.num_live == 28
    assert events_of(rig) == [
        (
            "target missed",
            f"the largest update of a device has {4 * 28 + FRAME} bytes of 100 at density 0.3889, "
            "and the schedule is at its end",
        )
    ]


def test_a_run_that_ends_before_its_schedule_says_so(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = finished(make_rig(aiming(make_plan, {"uplink_bytes": 100, "devices": "nobody"})))
    assert events_of(rig) == [
        ("target missed", "no update of 'nobody' has come in the last round, at density 0.3889")
    ]


def test_pruning_goes_on_when_updates_grow_again(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(aiming(make_plan, {"uplink_bytes": 4 * 50 + FRAME}))
    # In the fifth round one device has something to say besides, so that its blob is longer.
    rig.start()
    rig.until_round(5)
    federation = rig.coordinator._federation
    told = federation.store.update_records

    def longer(number: int | None = None) -> Any:
        records = told() if number is None else told(number)
        return [replace(r, num_bytes=r.num_bytes + 100) if r.round == 5 else r for r in records]

    federation.store.update_records = longer
    rig.to_end()
    assert [kind for kind, _ in events_of(rig)] == ["target met", "target left", "target met"]
    assert "has 305 bytes of 217: pruning goes on from density 0.6528" in events_of(rig)[1][1]
    # Held in rounds 4 and 5, the schedule goes on where it was: 34 weights from round 6 on.
    assert [round(r.density * 72) for r in rig.store.rounds()[1:]] == [72, 72, 47, 47, 47, 34, 34, 34]


def test_a_restart_changes_nothing(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = aiming(make_plan, {"uplink_bytes": 4 * 40 + FRAME})
    undisturbed = finished(make_rig(plan))
    for number in (4, 5, 6):
        rig = make_rig(plan)
        rig.start()
        rig.until_round(number)
        rig.restart_coordinator()
        rig.to_end()
        assert rig.outcome == undisturbed.outcome
        assert events_of(rig) == events_of(undisturbed)


@pytest.mark.parametrize("reaction", ["stop", "revert"])
def test_the_metric_may_stop_pruning_before_the_target(
    make_plan: MakePlan, make_rig: MakeRig, reaction: str
) -> None:
    plan = aiming(make_plan, {"uplink_bytes": 150}, tolerance=0.1, reaction=reaction)
    rig = make_rig(plan)
    # Below half of the weights this model is good for nothing.
    rig.coordinator._federation.evaluate = lambda weights: (
        0.9 if np.count_nonzero(weights) > 36 else 0.5,
        None,
    )
    rig.start()
    rig.to_end()
    kinds = [kind for kind, _ in events_of(rig)]
    if reaction == "stop":
        assert kinds == ["pruning held", "target missed"]
        assert events_of(rig)[1][1].endswith(
            "and the density was held because of the metric when the run ended"
        )
    else:
        assert kinds == ["pruning reverted", "target missed"]
        assert "a change was taken back because of the metric" in events_of(rig)[1][1]
        assert rig.coordinator.state.mask.num_live == 47


def test_no_scores_are_asked_for_while_the_target_is_met(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(aiming(make_plan, {"uplink_bytes": 1e6}, score="snip"))
    rig.start()
    rig.to_end()
    questions = {request.round: request.question for _, request, _ in rig.fake.done}
    # In round 1 nobody knows yet how long its updates will be; round 2 asks for nothing.
    assert [number for number, question in questions.items() if question] == []
    assert rig.coordinator.state.mask.density == 1
