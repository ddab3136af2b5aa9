"""Masks that the devices try, and progressive pruning block by block, in whole rounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, candidate_counts, counted_mask, tier_mask
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_coordinator.pruning.trial import open_tensors

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
POLICY: dict[str, Any] = {
    "schedule": "constant",
    "budget": "uniform",
    "density": 0.75,
    "candidates": 4,
    "regrow": 0.4,
    "grow": "gradient",
    "top_scores": True,
    "start_round": 4,
    "end_round": 6,
    "score_codec": {"codec_id": "float32"},
}
WIDE = tuple(
    TensorSpec(name=name, shape=(4, 5), kind="linear", prunable=name != "e")
    for name in ("a", "b", "c", "d", "e")
)
LAYOUT = Layout(tensors=WIDE)


def policy_of(**changes: Any) -> PruningPolicy:
    return PruningPolicy(**(POLICY | changes))


def test_candidates_have_the_density_and_differ_layer_by_layer() -> None:
    found = candidate_counts(LAYOUT, number=6, density=0.5, seed=7)
    assert found[0] == (8, 8, 7, 7, 20)
    assert {sum(counts) for counts in found} == {50}
    assert {counts[4] for counts in found} == {20}
    assert len(set(found)) >= 4
    # Half more or less of the uniform share at most, before it is brought to the sum.
    assert all(7.5 / 3 <= count <= 7.5 * 3 for counts in found for count in counts[:4])
    assert candidate_counts(LAYOUT, number=6, density=0.5, seed=7) == found
    assert candidate_counts(LAYOUT, number=6, density=0.5, seed=8)[1:] != found[1:]
    protected = candidate_counts(LAYOUT, number=6, density=0.6, seed=7, protect=("b",))
    assert {counts[1] for counts in protected} == {20}
    with pytest.raises(ValueError, match=r"density 0\.2 leaves 20 weights, and the tensors keep 24 at least"):
        candidate_counts(LAYOUT, number=1, density=0.2, seed=7)


def test_counted_masks_keep_the_largest() -> None:
    flat = np.arange(100, dtype=np.float32) - 50
    mask = counted_mask(flat, mask=Mask.dense(LAYOUT), counts=(1, 2, 0, 20, 0))
    assert np.flatnonzero(mask.live).tolist() == [0, 20, 21, *range(60, 100)]
    assert tier_mask(flat, mask=mask, share=0.5) == counted_mask(flat, mask=mask, counts=(1, 1, 0, 10, 20))
    with pytest.raises(ValueError, match="2 counts for 5 tensors"):
        counted_mask(flat, mask=mask, counts=(1, 2))


def test_blocks_take_turns_from_the_last_to_the_first() -> None:
    policy = policy_of(blocks=3, start_round=4, every=2, end_round=20)
    turns = [open_tensors(LAYOUT, policy=policy, round_number=number) for number in (4, 6, 8, 10)]
    assert turns == [("c", "d"), ("b",), ("a",), ("c", "d")]
    assert open_tensors(LAYOUT, policy=policy_of(), round_number=4) == ("a", "b", "c", "d")
    assert open_tensors(LAYOUT, policy=policy_of(blocks=9, protect=("d",)), round_number=4) == ("c",)


def plan_of(make_plan: MakePlan, **changes: Any) -> Plan:
    return replace(make_plan(rounds=6, init="seeded"), pruning=policy_of(**changes))


def losing(rig: Any, losses: dict[str, list[float]], *, round_number: int) -> None:
    """Let clients say these losses, and train nothing."""
    for name, values in losses.items():

        def said(result: Any, values: list[float] = values, name: str = name) -> Any:
            request = next(r for n, r, _ in reversed(rig.pending) if n == name)
            return replace(result, weights=request.weights, scores=np.array(values, np.float32))

        rig.fake.outcomes[name, round_number] = said


@pytest.fixture
def rig(make_plan: MakePlan, make_rig: MakeRig) -> Any:
    rig = make_rig(plan_of(make_plan))
    rig.pending = []
    train = rig.fake._train

    def noting(name: str, request: Any) -> Any:
        rig.pending.append((name, request, None))
        return train(name, request)

    rig.fake._train = noting
    return rig


def test_the_candidate_with_the_smallest_loss_is_the_mask(rig: Any) -> None:
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    losing(
        rig,
        {"a": [1.0, 9.0, 5.0, 5.0], "b": [3.0, 1.0, 5.0, 5.0], "c": [4.0, 1.5, 1.0, 5.0]},
        round_number=1,
    )
    rig.start()
    first = rig.coordinator.state
    assert first.mask.density == 1
    rig.until_round(2)
    asked = rig.pending[0][1].question
    assert (asked.kind, asked.form, asked.candidates, asked.density) == ("loss", "trial", 4, 0.75)
    # Means 3.4, 2.1, 2.6, 5: the second.
    state = rig.coordinator.state
    counts = candidate_counts(rig.layout, number=4, density=0.75, seed=7)
    assert state.mask == counted_mask(first.published, mask=first.mask, counts=counts[1])
    assert np.array_equal(state.weights, np.where(state.mask.live, first.weights, 0))
    events = [event.detail for event in rig.store.events() if event.kind == "mask chosen"]
    assert events == ["candidate 2 of 4 has the smallest mean loss, 2.1000; the largest is 5.0000"]
    traffic = rig.store.traffic(1)
    # Four floats and a header, thrice; an update of nothing costs little more than its header.
    assert 3 * 16 < traffic["frames", "losses"] < 3 * 70
    assert traffic["frames", "update"] < 3 * 70
    lengths = state.mask.lengths
    # The mask stays until start_round, and then each tensor keeps its number.
    rig.until_round(3)
    assert rig.coordinator.state.mask == state.mask
    scores = np.zeros(72, np.float32)
    dead = np.flatnonzero(~state.mask.live)
    scores[dead[:5]] = [5, 4, 3, 2, 1]
    for name in "abc":
        rig.fake.outcomes[name, 3] = lambda result: replace(result, scores=scores)
    rig.until_round(4)
    question = next(r.question for _, r, _ in rig.pending if r.round == 3)
    assert (question.form, question.at, question.top, question.swap) == ("values", 1.0, True, 0.4)
    after = rig.coordinator.state.mask
    assert after.lengths == lengths
    grown = np.flatnonzero(after.live & ~state.mask.live)
    assert set(dead[:5]) <= set(grown)
    rig.to_end()
    assert rig.coordinator.failure is None


def test_a_restart_in_the_middle_of_a_trial_changes_nothing(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_of(make_plan))
        for name, losses in {"a": [2, 1, 3, 4], "b": [2, 3, 1, 4], "c": [4, 3, 1, 2]}.items():
            rig.fake.outcomes[name, 1] = lambda result, said=losses: replace(
                result, scores=np.array(said, np.float32)
            )
        rig.start()
        if restarts:
            rig.silent.add("c")
            rig.until(lambda rig=rig: len(rig.counted()) == 2)
            rig.restart_coordinator()
            rig.silent.clear()
        rig.to_end()
        outcomes.append(rig.outcome)
    assert outcomes[0] == outcomes[1]


def test_without_losses_it_is_tried_again(rig: Any) -> None:
    losing(rig, {name: [2.0, 1.0, 3.0, 4.0] for name in "abc"}, round_number=2)
    rig.start()
    rig.until_round(3)
    assert rig.coordinator.state.mask.density == 0.75
    kinds = [event.kind for event in rig.store.events() if event.kind in ("pruning skipped", "mask chosen")]
    assert kinds == ["pruning skipped", "mask chosen"]


def test_what_an_extrusion_is_told(make_plan: MakePlan) -> None:
    policy = policy_of(candidates=0, extrusion=0.25, blocks=2, activations=0.5)
    question = policy.question_at(3)
    assert (question["block"], question["blocks"]) == (-1, 2)
    assert policy.told(question, first_rate=0.1)["shaping"] == {
        "activations": 0.5,
        "extrusion": 0.25,
        "marked": 0.4,
        "first_rate": 0.1,
    }
    assert policy.told({}, first_rate=0.1)["shaping"] == {"activations": 0.5}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": "cubic"}, 'must be "server" (policy) and "constant" (schedule) with candidates'),
        ({"policy": "tiered", "tiers": {"a": 0.5}}, 'must be false unless policy is "server"'),
        ({"start_round": 2}, "must be at least 3 with candidates, not 2"),
        ({"score": "lamp"}, 'must be 0 unless score is "magnitude"'),
        ({"budget": "global"}, 'must be "erk", "er" or "uniform" with candidates'),
        ({"solo_rounds": 1}, "must be 0 with candidates"),
        ({"candidates": 65}, "must be at least 0 and at most 64"),
        ({"grow": "update"}, 'must be "gradient" with top_scores'),
        ({"regrow": 0.0}, "must be false unless policy"),
        ({"top_scores": False, "extrusion": 0.1}, "must be 0 unless top_scores is true"),
        ({"candidates": 0, "blocks": 2, "schedule": "cubic"}, 'must be "constant" (schedule)'),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        policy_of(**changes)
    assert sentence in str(caught.value)
