"""The moving average of the server's weights: exact numbers, masks, restarts; what is broadcast stays raw."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator import ServerState, SettingError, network_of
from hedgerow_coordinator.checkpoint import decode_checkpoint, encode_checkpoint
from hedgerow_coordinator.moving_average import followed, served_weights
from hedgerow_coordinator.plan import EvaluateSettings, ModelSettings, Plan
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_coordinator.server_optimizer import AggregationSettings

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(3,), kind="linear", prunable=True),))


def version(
    number: int, values: list[float], live: list[bool], before: ServerState | None = None
) -> ServerState:
    weights = np.array(values, np.float32)
    mask = Mask(layout=LAYOUT, live=np.array(live))
    state = ServerState(version=number, mask=mask, weights=weights, published=weights)
    kept = {} if before is None else before.optimizer
    return replace(state, optimizer=followed(state, before=kept, decay=0.5))


ALL = [True, True, True]


def test_the_beginning_is_corrected() -> None:
    first = version(1, [4, 0, -1], ALL)
    assert served_weights(first).tolist() == [4, 0, -1]
    second = version(2, [8, 0, 1], ALL, first)
    # (0.5 * 0.5 * 4 + 0.5 * 8) / (1 - 0.25) = 20 / 3
    assert served_weights(second).tolist() == pytest.approx([20 / 3, 0, 1 / 3])
    third = version(3, [0, 0, 0], ALL, second)
    # (0.125 * 4 + 0.25 * 8 + 0.5 * 0) / 0.875
    assert served_weights(third).tolist() == pytest.approx([2.5 / 0.875, 0, 0.125 / 0.875])


def test_a_pruned_weight_is_zero_and_begins_anew_when_it_grows() -> None:
    first = version(1, [4, 2, 1], ALL)
    second = version(2, [4, 0, 1], [True, False, True], first)
    assert served_weights(second).tolist() == [4, 0, 1]
    assert second.optimizer["average-age"].tolist() == [2, 0, 2]
    third = version(3, [4, 6, 1], ALL, second)
    assert served_weights(third).tolist() == [4, 6, 1]
    fourth = version(4, [4, 3, 1], ALL, third)
    assert served_weights(fourth).tolist() == pytest.approx([4, (0.25 * 6 + 0.5 * 3) / 0.75, 1])


def test_weights_that_never_move_stay_to_the_bit() -> None:
    values = [-0.0, 1e-40, 0.1]
    state = replace(version(0, values, ALL), optimizer={})
    for _ in range(200):
        state = replace(state, optimizer=followed(state, before=state.optimizer, decay=0.99))
    assert served_weights(state).tobytes() == np.array(values, np.float32).tobytes()


def test_without_a_decay_nothing_is_kept() -> None:
    state = version(1, [1, 2, 3], ALL)
    assert followed(state, before=state.optimizer, decay=0.0) == {}
    plain = replace(state, optimizer={})
    assert served_weights(plain) is plain.weights


def test_a_checkpoint_keeps_it() -> None:
    state = version(2, [8, 0, 1], ALL, version(1, [4, 0, -1], ALL))
    back = decode_checkpoint(encode_checkpoint(state), path=Path("x"))
    assert served_weights(back).tobytes() == served_weights(state).tobytes()
    assert {name: array.dtype for name, array in back.optimizer.items()} == {
        "average": np.dtype(np.float64),
        "average-age": np.dtype(np.uint32),
        "average-decay": np.dtype(np.float64),
    }


def plan_for(make_plan: MakePlan, *, ema: float, rounds: int = 5, **options: Any) -> Plan:
    momentum = options.pop("server_momentum", 0.0)
    plan = make_plan(rounds=rounds, density=0.6, end_round=4, **options)
    return replace(plan, aggregation=AggregationSettings(ema=ema, server_momentum=momentum))


def run_through(rig: Any) -> Any:
    rig.start()
    rig.to_end()
    assert rig.coordinator.failure is None
    return rig


def test_the_average_is_of_all_versions_and_the_model_that_goes_out_is_not_it(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    raw = run_through(make_rig(plan_for(make_plan, ema=0.0)))
    rig = make_rig(plan_for(make_plan, ema=0.5))
    rig.start()
    total, mass = np.zeros(72), np.zeros(72)
    for number in range(1, 5):
        rig.until_round(number + 1)
        state = rig.coordinator.state
        total = np.where(state.mask.live, 0.5 * total + 0.5 * state.weights, 0)
        mass = np.where(state.mask.live, 0.5 * mass + 0.5, 0)
    expected = np.divide(total, mass, out=np.zeros(72), where=mass > 0)
    np.testing.assert_allclose(served_weights(rig.coordinator.state), expected, rtol=1e-6)
    rig.to_end()
    # Training, masks and what is sent are the same to the bit with and without it.
    assert rig.outcome == raw.outcome
    assert rig.model_of("a") == rig.published == raw.published
    served = network_of(rig.coordinator.state, rig.plan)
    assert not np.array_equal(served.weights, rig.coordinator.state.weights)
    assert not served.weights[~served.mask.live].any()


def test_what_is_measured_is_the_average(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = replace(plan_for(make_plan, ema=0.5), evaluate=EvaluateSettings(data="x.npz"))
    rig = make_rig(plan)
    seen: list[bytes] = []

    def measure(weights: Any) -> tuple[float, None]:
        seen.append(weights.tobytes())
        return 0.5, None

    rig.coordinator._federation.evaluate = measure
    run_through(rig)
    assert seen[-1] == served_weights(rig.coordinator.state).tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_restart_goes_on_with_it(make_plan: MakePlan, make_rig: MakeRig, momentum: float) -> None:
    plan = plan_for(make_plan, ema=0.9, server_momentum=momentum)
    undisturbed = run_through(make_rig(plan))
    rig = make_rig(plan)
    rig.start()
    for number in (2, 4):
        rig.until_round(number)
        rig.restart_coordinator()
    rig.to_end()
    assert rig.outcome == undisturbed.outcome
    theirs, ours = rig.coordinator.state.optimizer, undisturbed.coordinator.state.optimizer
    assert theirs.keys() == ours.keys()
    assert ("first" in theirs) == (momentum > 0)
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in ours)


def test_a_rewind_begins_it_anew(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_for(make_plan, ema=0.9)
    policy = replace(plan.pruning, schedule="one-shot", start_round=3, rewind=True)
    rig = make_rig(replace(plan, pruning=policy))
    rig.start()
    rig.until_round(3)
    state = rig.coordinator.state
    assert state.optimizer["average-age"].max() == 1
    assert served_weights(state).tobytes() == state.weights.tobytes()


def test_frozen_tensors_are_served_to_the_bit(make_plan: MakePlan, make_rig: MakeRig) -> None:
    plan = plan_for(make_plan, ema=0.9)
    plan = replace(plan, model=ModelSettings(init="template", freeze=("b",)))
    rig = run_through(make_rig(plan))
    served = served_weights(rig.coordinator.state)
    assert served[56:].tobytes() == rig.first_weights[56:].tobytes()


def test_settings_that_make_no_sense_are_refused(make_plan: MakePlan) -> None:
    for ema in (-0.1, 1.0):
        with pytest.raises(SettingError, match="ema must be at least 0 and less than 1"):
            AggregationSettings(ema=ema)
    with pytest.raises(SettingError, match='ema must be 0 with policy "personal"'):
        replace(plan_for(make_plan, ema=0.9), pruning=PruningPolicy(policy="personal"))
    with pytest.raises(SettingError, match='freeze must be empty with policy "personal"'):
        replace(make_plan(), model=ModelSettings(freeze=("a",)), pruning=PruningPolicy(policy="personal"))
