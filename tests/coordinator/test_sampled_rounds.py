"""FedPM: masks over frozen weights, and what the coordinator makes of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Layout, signed_constants
from hedgerow_coordinator import network_of
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan import CodecSettings, Plan, TrainingSettings
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_coordinator.sampled import posterior
from hedgerow_coordinator.server_optimizer import AggregationSettings

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
BITS = CodecSettings(feedback="none", uplink={"codec_id": "bits"}, downlink={"codec_id": "float32"})


def plan_with(make_plan: MakePlan, *, rounds: int = 3, **policy: Any) -> Plan:
    settings = {"policy": "sampled", "density": 1.0}
    plan = make_plan(rounds=rounds, init="seeded")
    return replace(plan, codec=BITS, pruning=PruningPolicy(**(settings | policy)))


def masks_of(rig: Any, *, round_number: int) -> dict[str, np.ndarray]:
    """Let each client answer with a mask of its own."""
    masks = {}
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(10 * round_number + seed)
        masks[name] = rng.integers(0, 2, rig.layout.num_parameters).astype(np.float32)
        rig.fake.outcomes[name, round_number] = lambda r, m=masks[name]: replace(r, weights=m)
    return masks


def test_a_mask_of_many_weights_is_no_outlier(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(
        replace(plan_with(make_plan, rounds=1), aggregation=AggregationSettings(outlier_ratio=2.0))
    )
    size = rig.layout.num_parameters
    for name, count in {"a": 1, "b": 1, "c": size}.items():
        mask = (np.arange(size) < count).astype(np.float32)
        rig.fake.outcomes[name, 1] = lambda r, m=mask: replace(r, weights=m)
    rig.run()
    assert rig.counted() == [(1, "a"), (1, "b"), (1, "c")]


def test_the_mode_of_the_posterior() -> None:
    share = np.array([0.0, 0.25, 1.0])
    found, memory = posterior(share, count=4, memory={}, begins=True)
    np.testing.assert_allclose(found, [0.01, 0.255, 0.99], atol=1e-7)
    # Beta(1 + 1 + 2, 1 + 3 + 2): the mode of 3 ones among 8.
    again, _ = posterior(np.array([0.5, 0.5, 0.5]), count=4, memory=memory, begins=False)
    np.testing.assert_allclose(again, [0.01 + 0.98 * n / 8 for n in (2, 3, 6)], atol=1e-7)
    anew, _ = posterior(np.array([0.5, 0.5, 0.5]), count=4, memory=memory, begins=True)
    np.testing.assert_allclose(anew, 0.5, atol=1e-7)


@pytest.mark.parametrize("every", [1, 2])
def test_rounds_make_probabilities_of_masks(make_plan: MakePlan, make_rig: MakeRig, every: int) -> None:
    rig = make_rig(plan_with(make_plan, every=every))
    # A mask counts as one, whatever data it was learned from.
    rig.fake.num_samples = {"a": 10, "b": 200, "c": 30}
    rig.start()
    rig.until_round(1)
    assert set(rig.coordinator.state.weights.tolist()) == {0.5}
    ones, count = np.zeros(rig.layout.num_parameters), 0
    for number in (1, 2):
        masks = masks_of(rig, round_number=number)
        if every == 1:
            ones, count = np.zeros_like(ones), 0
        ones, count = ones + sum(masks.values()), count + 3
        rig.until_round(number + 1)
        np.testing.assert_allclose(rig.coordinator.state.weights, 0.01 + 0.98 * ones / count, atol=1e-6)
    published = rig.coordinator.state.weights
    masks_of(rig, round_number=3)
    rig.until(lambda: len(rig.fake.rounds_of("a")) == 3)
    asked = [request for name, request, _ in rig.fake.done if name == "a" and request.round == 3]
    assert {request.sampled for request in asked} == {7}
    assert all(np.allclose(request.weights, published, atol=1e-6) for request in asked)
    # 72 bits, a form and a header.
    assert max(record.num_bytes for record in rig.store.update_records(2)) < 9 + 1 + 30
    rig.to_end()
    assert rig.coordinator.failure is None


def test_a_restart_counts_no_mask_twice(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_with(make_plan, rounds=2, every=2))
        rig.start()
        for number in (1, 2):
            masks_of(rig, round_number=number)
        rig.until_round(2)
        if restarts:
            rig.restart_coordinator()
        rig.to_end()
        outcomes.append(rig.outcome)
    assert outcomes[0] == outcomes[1]


def test_the_network_has_the_likely_weights(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan, rounds=1))
    rig.start()
    masks = masks_of(rig, round_number=1)
    rig.to_end()
    state = rig.coordinator.state
    network = network_of(state, rig.plan)
    likely = sum(masks.values()) >= 2
    expected = np.where(likely, signed_constants(rig.layout, seed=7), 0)
    np.testing.assert_array_equal(network.weights, expected)
    assert np.array_equal(network.mask.live, likely | ~rig.layout.prunable())
    assert network_of(state, make_plan()) is state


def test_a_mask_that_is_none_is_refused(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan))
    rig.start()
    masks_of(rig, round_number=1)
    rig.fake.outcomes["a", 1] = lambda r: replace(r, weights=r.weights + np.float32(0.25))
    rig.until_round(2)
    assert (1, "a") not in rig.counted()
    assert any("takes 0 and 1" in notice for notice in rig.notices)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"codec": CodecSettings(feedback="none")}, 'must be "bits" on the way up'),
        ({"codec": replace(BITS, feedback="residual")}, "masks leave nothing out"),
        ({"aggregation": AggregationSettings(server_momentum=0.5)}, "a mean of masks is no step"),
        ({"training": TrainingSettings(momentum=0.9)}, "weights do not move"),
        (
            {"pruning": PruningPolicy(policy="none")},
            'must be "bits" on the way up with policy "sampled", and nowhere else',
        ),
    ],
)
def test_a_plan_refuses_what_does_not_go_together(
    make_plan: MakePlan, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError) as caught:
        replace(plan_with(make_plan), **changes)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "policy", [{"density": 0.5}, {"rewind": True}, {"protect": ("a",)}, {"power": 2.0}, {"regularizer": "l1"}]
)
def test_what_makes_no_sense_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="sampled"):
        PruningPolicy(**({"policy": "sampled", "density": 1.0} | policy))


def test_a_model_that_cannot_be_sampled_is_refused() -> None:
    from hedgerow_codecs import TensorSpec

    layout = Layout(tensors=(TensorSpec(name="e.weight", shape=(3, 2), kind="embedding", prunable=False),))
    with pytest.raises(SettingError, match='cannot be "sampled" for this model'):
        PruningPolicy(policy="sampled", density=1.0).check(layout)
