"""Pruning in whole rounds over the in-memory link: scores, votes and tiers on the wire."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, seeded_parameters, tier_mask
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan import CodecSettings, Plan
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_edge_client import TrainResult

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]


def plan_with(make_plan: MakePlan, *, codec: str = "float32", rounds: int = 4, **policy: Any) -> Plan:
    settings = {"schedule": "constant", "budget": "uniform", "density": 0.75, "start_round": 2}
    settings |= {"end_round": 4, "score_codec": {"codec_id": "float32"}}
    pruning = PruningPolicy(**(settings | policy))
    return replace(make_plan(rounds=rounds, codec=codec, init="seeded"), pruning=pruning)


def scoring(vectors: dict[str, np.ndarray], rig: Any, *, round_number: int) -> None:
    """Let clients answer with these scores."""
    for name, vector in vectors.items():
        rig.fake.outcomes[name, round_number] = lambda result, v=vector: replace(result, scores=v)


def scores_of(rig: Any, *, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(rig.layout.num_parameters).astype(np.float32) for name in "abc"}


def live_best(scores: np.ndarray, mask: Mask, counts: tuple[int, ...]) -> np.ndarray:
    live = mask.live.copy()
    start = 0
    for spec, count in zip(mask.layout.tensors, counts, strict=True):
        part = slice(start, start + spec.size)
        start += spec.size
        places = np.flatnonzero(live[part])
        order = sorted(places, key=lambda i: (-scores[part][i], i))
        live[part][order[count:]] = False
    return live


def test_scores_of_the_devices_choose_what_stays(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_with(make_plan, score="snip", schedule="one-shot", start_round=3)
    rig = make_rig(plan)
    rig.fake.num_samples = {"a": 10, "b": 20, "c": 70}
    vectors = scores_of(rig, seed=1)
    scoring(vectors, rig, round_number=2)
    rig.start()
    rig.until_round(3)
    asked = {request.round: request.question for _, request, _ in rig.fake.done}
    assert asked[1] is None
    assert asked[2].kind == "snip"
    mean = sum(n / 100 * vectors[name].astype(np.float64) for name, n in rig.fake.num_samples.items())
    expected = live_best(np.abs(mean.astype(np.float32)), Mask.dense(rig.layout), (30, 8, 16))
    assert np.array_equal(rig.coordinator.state.mask.live, expected)
    traffic = rig.store.traffic(2)
    # 72 live weights of 4 bytes and a header, three times.
    assert 3 * 72 * 4 < traffic["frames", "scores"] < 3 * 72 * 4 + 3 * 40
    assert traffic["frames", "update"] + traffic["frames", "scores"] < traffic["received", "chunk"]
    assert ("frames", "scores") not in rig.store.traffic(1)
    rig.to_end()
    assert rig.coordinator.failure is None


def test_a_restart_in_the_middle_of_a_round_keeps_the_scores(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_with(make_plan, score="taylor", schedule="one-shot", start_round=2))
        scoring(scores_of(rig, seed=2), rig, round_number=1)
        rig.start()
        if restarts:
            rig.silent.add("c")
            rig.until(lambda rig=rig: len(rig.counted()) == 2)
            rig.restart_coordinator()
            rig.silent.clear()
        rig.to_end()
        outcomes.append(rig.outcome)
        assert rig.store.traffic(1)["frames", "scores"] > 0
    assert outcomes[0] == outcomes[1]


def test_without_scores_the_mask_stays_and_the_journal_says_so(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    rig = make_rig(plan_with(make_plan, score="fisher", schedule="one-shot", start_round=2))
    scoring(scores_of(rig, seed=2), rig, round_number=2)
    rig.start()
    rig.until_round(2)
    assert rig.coordinator.state.mask.density == 1
    rig.to_end()
    # They were asked for again, and have come.
    assert rig.coordinator.state.mask.density == 0.75
    events = [event for event in rig.store.events() if event.kind == "pruning skipped"]
    assert [event.detail for event in events] == [
        "round 2 keeps the mask of round 1: there is no score of the devices to score the weights by yet"
    ]
    assert rig.coordinator.failure is None


def test_rewind_goes_back_to_the_first_weights(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan, schedule="one-shot", start_round=3, rewind=True))
    rig.start()
    first = rig.coordinator.state.weights.copy()
    rig.until_round(2)
    assert not np.array_equal(rig.coordinator.state.weights, first)
    rig.until_round(3)
    state = rig.coordinator.state
    assert state.mask.num_live == 54
    assert np.array_equal(state.weights, np.where(state.mask.live, first, 0))
    rig.to_end()
    assert not np.array_equal(rig.coordinator.state.weights, np.where(state.mask.live, first, 0))


def test_masks_that_grow_reach_the_clients(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan, codec="deadzone", regrow=0.3, rounds=6, end_round=6))
    rig.start()
    masks = [rig.coordinator.state.mask]
    for number in range(2, 7):
        rig.until_round(number)
        masks.append(rig.coordinator.state.mask)
        state = rig.coordinator.state
        grown = state.mask.live & ~masks[-2].live
        assert not state.weights[grown].any()
        assert {rig.model_of(name) for name in "abc"} <= {rig.published} or number > 1
    rig.to_end()
    assert {mask.num_live for mask in masks} == {54}
    assert sum((after.live & ~before.live).any() for before, after in pairwise(masks)) > 1
    # All ends hold the same last version, though their masks grew on the way.
    assert {rig.model_of(name) for name in "abc"} == {rig.published}


def proposing(rig: Any, proposals: dict[str, np.ndarray], *, round_number: int) -> None:
    def change(proposal: np.ndarray) -> Callable[[TrainResult], TrainResult]:
        def apply(result: TrainResult) -> TrainResult:
            weights = np.where(proposal, result.weights, np.float32(0))
            return replace(result, weights=weights, proposal=proposal)

        return apply

    for name, proposal in proposals.items():
        rig.fake.outcomes[name, round_number] = change(proposal)


def swapped(mask: Mask, out: list[int], into: list[int]) -> np.ndarray:
    live = mask.live.copy()
    held, pruned = np.flatnonzero(live[:48]), np.flatnonzero(~live[:48])
    live[held[out]], live[pruned[into]] = False, True
    return live


def vote(make_plan: MakePlan, **policy: Any) -> Plan:
    return plan_with(make_plan, policy="vote", regrow=0.2, grow="gradient", **policy)


def test_a_vote_is_averaged_over_those_who_hold_a_weight(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(vote(make_plan))
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    rig.start()
    before = rig.coordinator.state
    proposals = {
        "a": swapped(before.mask, [0, 1], [0, 1]),
        "b": swapped(before.mask, [0, 2], [0, 2]),
        "c": swapped(before.mask, [0, 1], [0, 3]),
    }
    proposing(rig, proposals, round_number=1)
    rig.until_round(2)
    after = rig.coordinator.state
    total, held = np.zeros(72), np.zeros(72)
    for name, request, result in rig.fake.done:
        assert isinstance(result, TrainResult)
        weight, mask = rig.fake.num_samples[name], proposals[name]
        start = np.where(mask, request.weights, 0)
        total += weight * np.where(mask, result.weights.astype(np.float64) - start, 0)
        held += weight * mask
    mean = np.divide(total, held, out=np.zeros(72), where=held > 0)
    expected = (before.weights + mean).astype(np.float32)
    live = after.mask.live
    np.testing.assert_array_equal(after.weights[live], expected[live])
    # Everybody drops the first weight, and it is gone; all want the first pruned one, which is still zero
    # and fills the place; the others were kept by some.
    places, pruned = np.flatnonzero(before.mask.live[:48]), np.flatnonzero(~before.mask.live[:48])
    assert not live[places[0]]
    assert live[pruned[0]]
    assert after.mask.lengths == before.mask.lengths
    assert rig.store.traffic(1)["frames", "votes"] > 0
    rig.to_end()
    assert rig.coordinator.failure is None


def test_the_last_round_asks_for_no_vote(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(vote(make_plan, end_round=9))
    rig.start()
    rig.to_end()
    asked = {request.round: request.question for _, request, _ in rig.fake.done}
    assert [number for number, question in sorted(asked.items()) if question is not None] == [1, 2, 3]


@pytest.mark.parametrize(
    ("out", "into", "reason"),
    [
        ([0, 1], [0], "it proposes 29 weights for tensor 'a.weight', which has 30"),
        ([0], [0], "another mask for 'a.weight', which is protected"),
    ],
)
def test_a_vote_against_the_rules_is_refused(
    make_plan: MakePlan, make_rig: MakeRig, out: list[int], into: list[int], reason: str
) -> None:
    plan = vote(make_plan)
    if "protected" in reason:
        # The client does not know of the protection.
        plan = replace(plan, pruning=replace(plan.pruning, protect=("b.weight",)))
    rig = make_rig(plan)
    rig.start()
    proposing(rig, {"a": swapped(rig.coordinator.state.mask, out, into)}, round_number=1)
    if "protected" in reason:
        object.__setattr__(rig.coordinator._federation.pruning, "protect", ("a.weight",))
    rig.until_round(2)
    assert any(reason in notice for notice in rig.notices)
    assert rig.counted()[:2] == [(1, "b"), (1, "c")]


@pytest.mark.parametrize("biased", [False, True])
def test_tiers_train_and_send_their_part(make_plan: MakePlan, make_rig: MakeRig, biased: bool) -> None:
    plan = plan_with(make_plan, policy="tiered", tiers={"b": 0.5, "c*": 0.25}, rounds=3, biased=biased)
    rig = make_rig(plan)
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    rig.start()
    before = rig.coordinator.state
    rig.until_round(2)
    after = rig.coordinator.state
    total, held = np.zeros(72), np.zeros(72)
    sizes = {}
    for name, request, result in rig.fake.done:
        share = {"a": 1.0, "b": 0.5, "c": 0.25}[name]
        tier = tier_mask(before.published, mask=before.mask, share=share)
        assert np.array_equal(request.live, tier.live)
        # Around it a device has what was published, unless its tier is to stand alone.
        around = np.float32(0) if biased else before.published
        assert np.array_equal(request.weights, np.where(tier.live, before.published, around))
        assert isinstance(result, TrainResult)
        weight = rig.fake.num_samples[name]
        total += weight * (result.weights.astype(np.float64) - request.weights)
        held += weight * tier.live
        sizes[name] = tier.num_live
    expected = (before.weights + np.divide(total, held, out=np.zeros(72), where=held > 0)).astype(np.float32)
    assert np.array_equal(after.weights, np.where(after.mask.live, expected, 0))
    by_client = {record.client: record.num_bytes for record in rig.store.update_records(1)}
    # float32: four bytes for each weight, and the same header for all.
    assert by_client["a"] - by_client["b"] == 4 * (sizes["a"] - sizes["b"])
    assert by_client["a"] - by_client["c"] == 4 * (sizes["a"] - sizes["c"])
    rig.to_end()
    assert rig.counted() == [(number, name) for number in (1, 2, 3) for name in "abc"]


def test_tiers_by_distance_hold_what_has_moved_most(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_with(make_plan, policy="tiered", tier_by="distance", tiers={"c": 0.25}, rounds=3)
    rig = make_rig(plan)
    # The whole devices move the smallest weights furthest.
    for name in "ab":
        rig.fake.outcomes[name, 1] = lambda result: replace(
            result, weights=result.weights + 0.5 - np.abs(result.weights)
        )
    rig.start()
    before = [rig.coordinator.state]
    origin = seeded_parameters(before[0].mask.layout, seed=plan.run.seed)
    rig.until_round(2)
    before.append(rig.coordinator.state)
    rig.to_end()
    tiers = [request.live for name, request, _ in rig.fake.done if name == "c"]
    # Nothing has moved in the first round: the largest, as by magnitude.
    assert np.array_equal(tiers[0], tier_mask(before[0].published, mask=before[0].mask, share=0.25).live)
    moved = tier_mask(before[1].published, mask=before[1].mask, share=0.25, origin=origin)
    assert np.array_equal(tiers[1], moved.live)
    largest = tier_mask(before[1].published, mask=before[1].mask, share=0.25)
    assert moved != largest
    assert rig.counted() == [(number, name) for number in (1, 2, 3) for name in "abc"]


def test_tiers_by_distance_need_first_weights_that_devices_can_make(make_plan: MakePlan) -> None:
    pruning = plan_with(make_plan, policy="tiered", tier_by="distance", tiers={"c": 0.25}).pruning
    with pytest.raises(SettingError, match='init must be "seeded" with tier_by "distance", not "template"'):
        replace(make_plan(init="template"), pruning=pruning)


def test_a_weight_that_nobody_holds_keeps_its_value(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_with(make_plan, policy="tiered", tiers={"*": 0.25}, rounds=2)
    rig = make_rig(plan)
    rig.start()
    before = rig.coordinator.state
    tier = tier_mask(before.published, mask=before.mask, share=0.25)
    rig.until_round(2)
    after = rig.coordinator.state
    nobody = before.mask.live & ~tier.live
    assert nobody.any()
    assert np.array_equal(after.weights[nobody], before.weights[nobody])
    assert not np.array_equal(after.weights[tier.live], before.weights[tier.live])


def test_tiers_are_nested() -> None:
    from tests.coordinator.conftest import SMALL

    layout = Layout(tensors=SMALL)
    flat = np.random.default_rng(3).standard_normal(72).astype(np.float32)
    masks = [
        tier_mask(flat, mask=Mask.dense(layout), share=share, protect=("b.weight",))
        for share in (0.1, 0.3, 0.5, 1.0)
    ]
    assert [mask.lengths for mask in masks] == [(5, 8, 16), (15, 8, 16), (24, 8, 16), (48, 8, 16)]
    for small, large in pairwise(masks):
        assert not (small.live & ~large.live).any()


def test_the_soft_rule_takes_nothing_away(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan, policy="soft", threshold=5.0, start_round=2, rounds=2))
    rig.start()
    rig.until_round(2)
    state = rig.coordinator.state
    assert state.mask.density == 1
    # The prunable tensor has 8 rows: about an eighth is left of them.
    assert np.abs(state.weights[:48]).max() < 0.2 * np.abs(state.weights[56:]).max()


@pytest.mark.parametrize(
    ("feedback", "policy", "sentence"),
    [
        ("ef21", {"policy": "tiered", "tiers": {"a": 0.5}}, 'must not be "ef21" with policy "tiered"'),
        ("residual", {"tolerance": 0.1}, "must be 0 where nothing is measured"),
    ],
)
def test_a_plan_refuses_what_does_not_go_together(
    make_plan: MakePlan, feedback: str, policy: dict[str, Any], sentence: str
) -> None:
    plan = plan_with(make_plan)
    codec = CodecSettings(feedback=feedback)
    with pytest.raises(SettingError) as caught:
        replace(plan, codec=codec, pruning=replace(plan.pruning, **policy))
    assert sentence in str(caught.value)
