"""Runs in which tensors are frozen: their values never change, and travel once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    Frozen,
    Layout,
    Mask,
    MismatchError,
    TensorSpec,
    codec_from_config,
    max_frame_bytes,
)
from hedgerow_coordinator import DensityError, ServerState, SettingError
from hedgerow_coordinator.plan import AggregationSettings, ModelSettings, Plan
from hedgerow_coordinator.pruning import Candidates, Evidence, PruningPolicy, prune
from hedgerow_coordinator.server_model import stepped
from hedgerow_edge_client.replica import Replica

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]

NET = (
    TensorSpec(name="body.weight", shape=(60, 50), kind="linear", prunable=True),
    TensorSpec(name="body.bias", shape=(60,), kind="bias", prunable=False),
    TensorSpec(name="neck.weight", shape=(20, 60), kind="linear", prunable=True),
    TensorSpec(name="head.weight", shape=(3, 20), kind="linear", prunable=False),
)
FROZEN = slice(0, 3060)


def plan_for(make_plan: MakePlan, *, freeze: tuple[str, ...] = ("body",), **options: Any) -> Plan:
    feedback = options.pop("feedback", "residual")
    aggregation = options.pop("aggregation", AggregationSettings())
    plan = make_plan(**options)
    return replace(
        plan,
        model=ModelSettings(init="template", freeze=freeze),
        codec=replace(plan.codec, feedback=feedback),
        aggregation=aggregation,
    )


def run_through(rig: Any) -> None:
    rig.start()
    rig.to_end()
    assert rig.coordinator.failure is None


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "float32"},
        {"codec": "deadzone", "density": 0.9, "aggregation": AggregationSettings(server_momentum=0.9)},
        {"codec": "deadzone", "feedback": "ef21"},
        {
            "codec": "uniform",
            "aggregation": AggregationSettings(
                optimizer="adam", server_learning_rate=0.01, server_momentum=0.9
            ),
        },
    ],
)
def test_frozen_tensors_are_the_same_to_the_bit(
    make_plan: MakePlan, make_rig: MakeRig, options: dict[str, Any]
) -> None:
    rig = make_rig(plan_for(make_plan, rounds=4, **options), tensors=NET)
    before = rig.first_weights
    # These trainers move every weight, as one that knows nothing of frozen tensors would.
    run_through(rig)
    state = rig.coordinator.state
    assert state.weights[FROZEN].tobytes() == before[FROZEN].tobytes()
    assert state.published[FROZEN].tobytes() == before[FROZEN].tobytes()
    assert state.mask.live[FROZEN].all()
    assert not np.array_equal(state.weights[3060:], before[3060:])
    for name in "abc":
        assert rig.model_of(name) == rig.published
        if options.get("feedback") != "ef21":
            assert not rig.residual_of(name)[FROZEN].any()
    for moment in state.optimizer.values():
        assert not moment[FROZEN].any()
    assert {request.frozen for _, request, _ in rig.fake.done} == {("body.weight", "body.bias")}


def test_the_server_keeps_frozen_values_of_every_kind() -> None:
    layout = Layout(tensors=NET)
    mask, frozen = Mask.dense(layout), Frozen.matching(layout, ["body"])
    first = np.ones(layout.num_parameters, np.float32)
    first[:4] = [-0.0, 1e-40, 3e38, -1e-45]
    state = ServerState(version=0, mask=mask, weights=first, published=first.copy())
    codec = codec_from_config({"codec_id": "deadzone"})
    following, steps = stepped(state, first + np.float32(0.5), mask=mask, codec=codec, frozen=frozen)
    assert following.weights[FROZEN].tobytes() == first[FROZEN].tobytes()
    assert following.published[FROZEN].tobytes() == first[FROZEN].tobytes()
    assert (following.weights[3060:] == 1.5).all()
    replica = Replica(version=0, mask=mask, weights=first).advanced(steps, version=1, frozen=frozen)
    assert replica.weights.tobytes() == following.published.tobytes()
    with pytest.raises(MismatchError):
        Replica(version=0, mask=mask, weights=first).advanced(steps, version=1)


def test_an_update_takes_the_bytes_of_what_moves(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_for(make_plan, rounds=3), tensors=NET)
    run_through(rig)
    moving = Layout(tensors=NET[2:])
    sizes = {record.num_bytes for record in rig.store.update_records()}
    # Float32 of 1,260 of the 4,320 parameters, and a few bytes around them.
    assert sizes == {4 * 1260 + 5 + 8 + 4}
    assert max(sizes) < max_frame_bytes(moving)
    deltas = [ref for refs in rig.coordinator._federation.routes._history.values() for ref in refs]
    by_kind = {kind: [ref.size for ref in deltas if ref.kind == kind] for kind in ("keyframe", "model_delta")}
    assert len(by_kind["keyframe"]) == 1
    assert by_kind["keyframe"][0] > 4 * 4320
    assert len(by_kind["model_delta"]) == 3
    assert max(by_kind["model_delta"]) < 4 * 1260 + 64


def test_both_ends_may_be_killed_and_late_devices_get_the_frozen_values(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    plan = plan_for(make_plan, rounds=5, codec="deadzone", density=0.9, end_round=4)
    undisturbed = make_rig(plan, tensors=NET)
    run_through(undisturbed)
    rig = make_rig(plan, tensors=NET)
    rig.start()
    rig.until_round(2)
    memory = rig.kill("b")
    rig.until_round(3)
    rig.restart_coordinator()
    rig.join("b", memory=memory)
    rig.until_round(4)
    rig.join("late")
    rig.to_end()
    assert rig.coordinator.failure is None
    for name in ("a", "b", "c", "late"):
        assert rig.model_of(name) == rig.published
    assert rig.coordinator.state.weights[FROZEN].tobytes() == rig.first_weights[FROZEN].tobytes()
    told = [event.detail for event in rig.store.events() if event.kind == "frozen"]
    assert len(told) == 1


def test_a_restarted_coordinator_comes_to_the_same_weights(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_for(make_plan, rounds=4, codec="deadzone", density=0.9, end_round=3)
    first, second = make_rig(plan, tensors=NET), make_rig(plan, tensors=NET)
    run_through(first)
    second.start()
    second.until_round(3)
    second.restart_coordinator()
    second.to_end()
    assert second.outcome == first.outcome


@pytest.mark.parametrize("policy", ["tiered", "vote"])
def test_tiers_and_votes_leave_frozen_tensors_whole(
    make_plan: MakePlan, make_rig: MakeRig, policy: str
) -> None:
    plan = plan_for(make_plan, rounds=4, density=0.85, end_round=4)
    changes: dict[str, Any] = {"policy": policy, "initial_density": 0.9}
    if policy == "tiered":
        changes["tiers"] = {"a": 0.5}
    else:
        changes |= {"regrow": 0.2, "grow": "random", "schedule": "constant"}
    rig = make_rig(replace(plan, pruning=replace(plan.pruning, **changes)), tensors=NET)
    if policy == "vote":
        propose_the_same(rig)
    rig.start()
    rig.to_end()
    assert rig.coordinator.failure is None
    state = rig.coordinator.state
    assert state.mask.num_live == int(0.85 * 4320)
    assert state.weights[FROZEN].tobytes() == rig.first_weights[FROZEN].tobytes()
    if policy == "tiered":
        masks = {
            (name, int(request.live[3060:].sum()), bool(request.live[FROZEN].all()))
            for name, request, _ in rig.fake.done
        }
        assert all(whole for _, _, whole in masks)
        sizes = {(r.round, r.client): r.num_bytes for r in rig.store.update_records()}
        assert all(sizes[number, "a"] < sizes[number, "b"] for number in range(1, 5))


def propose_the_same(rig: Any) -> None:
    """Let every device propose the mask that there is."""
    for name in "abc":
        for number in range(1, 5):
            rig.fake.outcomes[name, number] = lambda result: replace(
                result, proposal=rig.coordinator.state.mask.live.copy()
            )


def test_a_proposal_that_prunes_a_frozen_tensor_is_refused() -> None:
    from hedgerow_codecs import Frozen, Mask
    from hedgerow_coordinator.answers import AnswerReader
    from hedgerow_coordinator.errors import AggregationError

    layout = Layout(tensors=NET)
    live = np.ones(layout.num_parameters, np.bool_)
    mask = Mask(layout=layout, live=live)
    reader = AnswerReader(
        PruningPolicy().protecting(("body.weight",)),
        mask=mask,
        published=np.zeros(layout.num_parameters, np.float32),
        base=bytes(16),
        question={"form": "mask"},
        frozen=Frozen.matching(layout, ["body"]),
    )
    live[0] = False
    with pytest.raises(AggregationError, match=r"2999 weights for tensor 'body.weight', which has 3000"):
        reader._checked(Mask(layout=layout, live=live))


@pytest.mark.parametrize(
    ("freeze", "density", "kind", "sentence"),
    [
        (("boddy",), 1.0, SettingError, "'boddy' means no tensor of the model; did you mean 'body'?"),
        (("*",), 1.0, SettingError, "there is nothing left to train"),
        (("body",), 0.2, DensityError, "never pruned hold 3120 and the others keep at least 1 each"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_the_run(
    make_plan: MakePlan,
    make_rig: MakeRig,
    freeze: tuple[str, ...],
    density: float,
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind) as caught:
        make_rig(plan_for(make_plan, freeze=freeze, density=density), tensors=NET)
    assert sentence in str(caught.value)


def test_what_a_density_means_is_said(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_for(make_plan, density=0.9), tensors=NET)
    rig.start()
    # 3,888 live of 4,320, of which 3,060 are frozen: 828 of 1,260.
    assert any(
        "2 of 4 tensors are frozen, with 3,060 of 4,320 parameters: they are sent once; "
        "a density of 0.9 of all is 0.657 of the 1,260 that are trained" in notice
        for notice in rig.notices
    )


def test_pretrained_weights_are_not_rescaled_under_a_first_mask(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    plan = plan_for(make_plan, density=0.8, freeze=())
    constant = replace(plan.pruning, schedule="constant")
    states = {}
    for init in ("template", "pretrained"):
        rig = make_rig(replace(plan, pruning=constant, model=ModelSettings(init=init)), tensors=NET)
        states[init] = rig.coordinator.state
        first = rig.first_weights
    mask = states["pretrained"].mask
    # By magnitude: both keep the largest, and only one of them as they are.
    assert mask == states["template"].mask
    assert np.array_equal(states["pretrained"].weights, np.where(mask.live, first, np.float32(0)))
    assert not np.array_equal(states["template"].weights, states["pretrained"].weights)


def test_what_is_frozen_is_part_of_what_a_plan_is(make_plan: MakePlan) -> None:
    assert plan_for(make_plan).settings()["model"]["freeze"] == ("body",)
    assert plan_for(make_plan).digest != plan_for(make_plan, freeze=()).digest


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_policy_takes_an_entry_of_a_frozen_or_protected_tensor(data: st.DataObject) -> None:
    layout = Layout(tensors=NET)
    frozen = Frozen.matching(
        layout, data.draw(st.sampled_from([["body"], ["body.weight"], ["neck", "*.bias"]]))
    )
    regrow = data.draw(st.sampled_from([0.0, 0.3]))
    policy = PruningPolicy(
        score=data.draw(st.sampled_from(["magnitude", "lamp", "random", "update", "row-norm"])),
        budget=data.draw(st.sampled_from(["erk", "er", "uniform", "global", "lamp"])),
        schedule=data.draw(st.sampled_from(["cubic", "geometric", "cosine"])),
        density=0.99,
        initial_density=1.0,
        end_round=6,
        regrow=regrow,
    ).protecting((*frozen.names, "head.weight"))
    kept = frozen.entries.copy()
    kept[-60:] = True
    # As thin as the rest can be made, and a little more than that.
    least = Candidates(layout=layout, protect=policy.protect)
    density = min(0.98, (sum(least.floors()) + data.draw(st.integers(0, 900))) / layout.num_parameters)
    policy = replace(policy, density=density)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # What is kept is worth less than all others.
    flat = np.where(kept, 1e-6, 1 + rng.random(layout.num_parameters)).astype(np.float32)
    mask = Mask.dense(layout)
    for number in range(2, 8):
        update = np.where(kept, 0, rng.standard_normal(layout.num_parameters)).astype(np.float32)
        known = Evidence(weights=flat, mask=mask, update=update, round=number, seed=number)
        mask = prune(flat, mask=mask, policy=policy, round=number, evidence=known)
        assert mask.live[kept].all()
    assert mask.num_live == int(density * layout.num_parameters + 1e-6)
