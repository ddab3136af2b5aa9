"""Dynamic pruning with feedback: pruned weights train on behind the mask, and all compete at a change."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Mask
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_edge_client import TrainResult

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]


def plan_of(make_plan: MakePlan, **policy: Any) -> Plan:
    settings = {
        "latent": True,
        "budget": "global",
        "initial_budget": "uniform",
        "schedule": "constant",
        "density": 0.75,
        "start_round": 3,
        "end_round": 5,
        "every": 2,
        "score_codec": {"codec_id": "float32"},
    }
    pruning = PruningPolicy(**(settings | policy))
    return replace(make_plan(rounds=5, init="seeded"), pruning=pruning)


def answers(rig: Any, *, round_number: int) -> dict[str, np.ndarray]:
    """Let each client say what its pruned weights have become: one of them large with all."""
    dead = np.flatnonzero(~rig.coordinator.state.mask.live)
    vectors = {}
    for name, size in zip("abc", (2.0, 3.0, 4.0), strict=True):
        vector = np.zeros(72, np.float32)
        vector[dead] = 1 / 1024
        vector[dead[4]] = size

        def said(result: TrainResult, vector: np.ndarray = vector) -> TrainResult:
            return replace(result, scores=vector)

        vectors[name] = vector
        rig.fake.outcomes[name, round_number] = said
    return vectors


def test_a_pruned_weight_comes_back_with_what_it_has_become(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan))
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    rig.start()
    rig.until_round(2)
    before = rig.coordinator.state
    vectors = answers(rig, round_number=2)
    rig.until_round(3)
    asked = {request.round: request.question for _, request, _ in rig.fake.done}
    assert asked[1] is None
    assert (asked[2].kind, asked[2].form, asked[2].at) == ("latent", "values", 1.0)
    assert all(request.shaping.latent for _, request, _ in rig.fake.done)
    after = rig.coordinator.state
    (grown,) = np.flatnonzero(after.mask.live & ~before.mask.live)
    assert grown == np.flatnonzero(~before.mask.live)[4]
    # (10 * 2 + 30 * 3 + 60 * 4) / 100
    assert after.weights[grown] == np.float32(3.5)
    assert after.published[grown] == np.float32(3.5)
    assert after.mask.num_live == before.mask.num_live
    # The smallest of all that were live has gone for it.
    (dropped,) = np.flatnonzero(before.mask.live & ~after.mask.live)
    updates = [(n, r, o) for n, r, o in rig.fake.done if r.round == 2]
    moved = (
        sum(rig.fake.num_samples[n] * (o.weights.astype(np.float64) - r.weights) for n, r, o in updates) / 100
    )
    trained = np.abs(before.weights + moved)[:48]
    live = before.mask.live[:48]
    assert dropped == np.flatnonzero(live)[np.argmin(trained[live])]
    # The pruned weights, and 24 that are never pruned, as floats with a header, three times.
    assert len(vectors) * 42 * 4 < rig.store.traffic(2)["frames", "scores"] < len(vectors) * (42 * 4 + 40)
    assert {rig.model_of(name) for name in "abc"} == {rig.published}
    rig.to_end()
    assert rig.coordinator.failure is None


def test_without_an_answer_the_mask_stays_and_the_journal_says_so(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    rig = make_rig(plan_of(make_plan))
    rig.start()
    first = rig.coordinator.state.mask
    rig.to_end()
    assert rig.coordinator.state.mask == first
    assert [event.kind for event in rig.store.events()].count("pruning skipped") == 2


def test_the_first_mask_has_a_budget_of_its_own(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan))
    mask: Mask = rig.coordinator.state.mask
    assert mask.lengths == (30, 8, 16)


def test_the_regularizer_rises_in_equal_steps() -> None:
    policy = PruningPolicy(regularizer="norm", strength=0.8, strength_steps=4, end_round=8)
    strengths = [
        policy.told({}, round_number=number).get("shaping", {}).get("strength", 0.0)  # type: ignore[attr-defined]
        for number in range(1, 11)
    ]
    np.testing.assert_allclose(strengths, [0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6])
    always = PruningPolicy(regularizer="l1", strength=0.8).told({}, round_number=1)
    assert always == {"shaping": {"regularizer": "l1", "strength": 0.8}}


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"latent": True, "regrow": 0.1}, "must be false when regrow is not 0"),
        ({"latent": True, "score": "lamp"}, 'must be false unless score is "magnitude"'),
        ({"latent": True, "power": 2.0}, "must be 1 when latent is true"),
        ({"latent": True, "density": 1.0}, "must be false when density is 1"),
        ({"latent": True, "policy": "tiered", "tiers": {"a": 0.5}}, 'must be false with policy "tiered"'),
        ({"latent": True, "tolerance": 0.1, "reaction": "revert"}, 'must be "stop" when latent is true'),
        ({"strength": 0.1}, 'must be "l1", "l2" or "norm" when strength is not 0'),
        ({"regularizer": "l1"}, 'must be above 0 with regularizer "l1"'),
        ({"regularizer": "l3"}, "must be one of"),
        ({"initial_budget": "all"}, "must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused(policy: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(**policy)
    assert sentence in str(caught.value)
