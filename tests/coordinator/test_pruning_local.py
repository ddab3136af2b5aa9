"""Devices that prune their own weights: the mean of their models, and the union of their masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_coordinator.errors import PlanError, SettingError
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_edge_client import TrainResult

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
LOCAL = {"policy": "local", "budget": "global", "schedule": "one-shot", "start_round": 2, "density": 0.5}


def plan_of(make_plan: MakePlan, *, end_round: int) -> Plan:
    pruning = PruningPolicy(**LOCAL, end_round=end_round)  # type: ignore[arg-type]
    return replace(make_plan(rounds=4, init="seeded"), pruning=pruning)


def proposing(rig: Any, kept: dict[str, list[int]], *, round_number: int) -> None:
    """Let each client keep these weights of the first tensor."""
    for name, places in kept.items():
        live = np.ones(72, np.bool_)
        live[:48] = False
        live[places] = True

        def said(result: TrainResult, live: np.ndarray = live) -> TrainResult:
            return replace(result, weights=np.where(live, result.weights, np.float32(0)), proposal=live)

        rig.fake.outcomes[name, round_number] = said


def test_the_mean_of_pruned_models_under_their_union(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan, end_round=4))
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    kept = {"a": [0, 1, 2], "b": [1, 2, 3], "c": [2, 3, 40]}
    proposing(rig, kept, round_number=1)
    rig.start()
    rig.until_round(2)
    question = rig.fake.done[0][1].question
    assert (question.kind, question.form, question.density, question.at) == ("magnitude", "mask", 0.5, 1.0)
    state = rig.coordinator.state
    assert np.flatnonzero(state.mask.live[:48]).tolist() == [0, 1, 2, 3, 40]
    # A plain mean: whoever has pruned a weight has a zero there.
    models = {name: result.weights.astype(float) for name, _, result in rig.fake.done}
    mean = sum(rig.fake.num_samples[name] * weights for name, weights in models.items()) / 100
    np.testing.assert_allclose(state.weights, np.where(state.mask.live, mean, 0), atol=1e-6)
    assert abs(models["a"][0]) > 0
    np.testing.assert_allclose(state.weights[0], 0.1 * models["a"][0], rtol=1e-5)
    # A header and 48 bits, thrice.
    assert 0 < rig.store.traffic(1)["frames", "votes"] < 3 * 90
    rig.to_end()
    assert rig.coordinator.failure is None


def test_at_last_the_union_is_pruned_to_the_density(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan, end_round=3))
    # Each keeps 12 weights, which together are 36.
    for number in (1, 2):
        proposing(
            rig, {n: list(range(12 * i, 12 * i + 12)) for i, n in enumerate("abc")}, round_number=number
        )
    rig.start()
    rig.until_round(2)
    assert rig.coordinator.state.mask.num_live == 60
    rig.until_round(3)
    state = rig.coordinator.state
    assert state.mask.num_live == 36
    rig.to_end()
    questions = {request.round: request.question for _, request, _ in rig.fake.done}
    assert [number for number, asked in sorted(questions.items()) if asked is not None] == [1, 2]
    assert rig.coordinator.state.mask == state.mask


def test_a_restart_in_the_middle_changes_nothing(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_of(make_plan, end_round=4))
        proposing(rig, {"a": [0, 1], "b": [1, 2], "c": [2, 3]}, round_number=1)
        rig.start()
        if restarts:
            rig.silent.add("c")
            rig.until(lambda rig=rig: len(rig.counted()) == 2)
            rig.restart_coordinator()
            rig.silent.clear()
        rig.to_end()
        outcomes.append(rig.outcome)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (list(range(13)), "it proposes 37 weights, at most 36 are asked for"),
        ([], "it proposes 0 of 48 weights for tensor 'a.weight'"),
    ],
)
def test_a_proposal_against_the_rules_is_refused(
    make_plan: MakePlan, make_rig: MakeRig, kept: list[int], reason: str
) -> None:
    rig = make_rig(plan_of(make_plan, end_round=4))
    proposing(rig, {"a": kept}, round_number=1)
    rig.start()
    rig.until_round(2)
    assert any(reason in notice for notice in rig.notices)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"score": "lamp"}, 'must be "magnitude" (score) and "global" (budget) with policy "local"'),
        ({"budget": "erk"}, 'must be "magnitude" (score) and "global" (budget) with policy "local"'),
        ({"rewind": True}, 'must not be "local" when regrow is not 0'),
        ({"tolerance": 0.1}, 'must be 0 with policy "local"'),
        ({"density": 1.0}, "prunes to a density"),
        ({"activations": 1.5}, "must be at least 0 and at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(**(LOCAL | changes))
    assert sentence in str(caught.value)


def test_the_end_must_come_within_the_run(make_plan: MakePlan) -> None:
    with pytest.raises(PlanError, match="end_round"):
        plan_of(make_plan, end_round=5)
