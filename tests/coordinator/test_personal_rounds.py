"""Personal models and tiers by width in whole rounds over the in-memory link."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import ChannelSet, Layout, Mask, TensorSpec, width_tier
from hedgerow_coordinator.errors import PruningError, SettingError
from hedgerow_coordinator.plan import CodecSettings, Plan
from hedgerow_coordinator.pruning import PruningPolicy, told_channels
from hedgerow_coordinator.server_optimizer import AggregationSettings
from hedgerow_edge_client import ClientState, MemoryState, Snapshot, TrainResult

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]


def plan_with(make_plan: MakePlan, *, rounds: int = 3, **policy: Any) -> Plan:
    settings = {"policy": "personal", "density": 0.6}
    plan = replace(make_plan(rounds=rounds, init="seeded"), pruning=PruningPolicy(**(settings | policy)))
    return replace(plan, aggregation=AggregationSettings(outlier_ratio=0))  # `thinned` moves weights far


def without(places: slice, layout: Layout) -> np.ndarray:
    live = np.ones(layout.num_parameters, np.bool_)
    live[places] = False
    return live


def thinned(result: TrainResult, *, places: slice, base: np.ndarray, by: float) -> TrainResult:
    """Hold all but some places, and move what is held."""
    live = np.ones(result.weights.size, np.bool_)
    live[places] = False
    weights = np.where(live, base + np.float32(by), 0).astype(np.float32)
    return replace(result, weights=weights, proposal=live, held_out=0.75)


def test_overlaps_are_averaged_and_what_nobody_holds_stays(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan))
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 10}
    rig.start()
    rig.until_round(1)
    base = rig.coordinator.state.weights.copy()
    shares = {"a": (slice(0, 20), 0.5), "b": (slice(10, 30), 0.25), "c": (slice(10, 20), 1.0)}
    for name, (places, by) in shares.items():
        rig.fake.outcomes[name, 1] = lambda r, p=places, b=by: thinned(r, places=p, base=base, by=b)
    rig.until_round(2)
    moved = rig.coordinator.state.weights - base
    np.testing.assert_allclose(moved[0:10], (30 * 0.25 + 10 * 1.0) / 40, atol=1e-6)
    assert not moved[10:20].any()
    np.testing.assert_allclose(moved[20:30], (10 * 0.5 + 10 * 1.0) / 20, atol=1e-6)
    np.testing.assert_allclose(moved[30:], (10 * 0.5 + 30 * 0.25 + 10 * 1.0) / 50, atol=1e-6)
    assert rig.coordinator.state.mask == Mask.dense(rig.layout)
    assert rig.store.traffic(1)["frames", "masks"] > 0
    assert any("personal accuracy 0.7500 of 3" in notice for notice in rig.notices)


def test_each_device_trains_its_own_model_next_time(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan))
    rig.start()
    rig.until_round(1)
    base = rig.coordinator.state.weights
    rig.fake.outcomes["a", 1] = lambda r: thinned(r, places=slice(0, 20), base=base, by=0.5)
    rig.silent = {"b"}
    rig.until(lambda: (1, "a") in rig.counted())
    memory = rig.kill("a")
    rig.join("a", memory=memory)
    rig.silent = set()
    rig.to_end()
    assert rig.coordinator.failure is None
    asked = {(name, request.round): request for name, request, _ in rig.fake.done}
    own = without(slice(0, 20), rig.layout)
    assert np.array_equal(asked["a", 2].live, own)
    assert np.array_equal(asked["a", 3].live, own)
    assert not asked["a", 2].weights[:20].any()
    assert asked["b", 2].live.all()
    assert asked["a", 2].personal.density == 0.6
    assert rig.counted() == [(number, name) for number in (1, 2, 3) for name in "abc"]


def test_a_device_that_dies_before_its_update_is_taken_sends_the_same_again(
    make_plan: MakePlan, make_rig: MakeRig
) -> None:
    rig = make_rig(plan_with(make_plan))
    rig.start()
    rig.until_round(1)
    base = rig.coordinator.state.weights
    rig.fake.outcomes["a", 1] = lambda r: thinned(r, places=slice(0, 20), base=base, by=0.5)
    rig.until(lambda: rig.pending_of("a") is not None)
    memory = rig.kill("a")
    snapshot = memory.load()
    assert snapshot is not None
    assert np.array_equal(snapshot.personal, without(slice(0, 20), rig.layout))
    rig.join("a", memory=memory)
    rig.until_round(2)
    assert rig.fake.rounds_of("a").count(1) == 1
    assert (1, "a") in rig.counted()


def test_a_restarted_coordinator_makes_the_same_mean(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_with(make_plan, rounds=1))
        rig.start()
        rig.until_round(1)
        base = rig.coordinator.state.weights.copy()
        for name, places in (("a", slice(0, 20)), ("b", slice(10, 30))):
            rig.fake.outcomes[name, 1] = lambda r, p=places, b=base: thinned(r, places=p, base=b, by=0.5)
        rig.silent = {"c"}
        rig.until(lambda r=rig: len(r.counted()) == 2)
        if restarts:
            rig.restart_coordinator()
        rig.silent = set()
        rig.to_end()
        outcomes.append(rig.outcome)
    assert outcomes[0] == outcomes[1]


def test_a_mask_that_takes_what_is_protected_is_refused(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_with(make_plan, protect=("a.weight",), density=1.0))
    rig.start()
    rig.until_round(1)
    base = rig.coordinator.state.weights
    rig.fake.outcomes["a", 1] = lambda r: thinned(r, places=slice(0, 20), base=base, by=0.5)
    rig.until_round(2)
    assert (1, "a") not in rig.counted()
    assert any("its own mask takes weights of 'a.weight', which is protected" in n for n in rig.notices)


def test_the_mask_survives_on_disk(tmp_path: Path) -> None:
    own = np.arange(19) % 3 > 0
    flat = np.zeros(19, np.float32)
    snapshot = Snapshot(
        run="r", layout=b"l" * 16, version=1, weights=flat, live=own | True, residual=flat, personal=own
    )
    state = ClientState(tmp_path)
    state.save(snapshot)
    state.close()
    again = ClientState(tmp_path).load()
    assert again is not None
    assert np.array_equal(again.personal, own)
    plain = MemoryState()
    plain.save(replace(snapshot, personal=None))
    assert plain.load().personal is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"channels": 0.5}, "density must be 1 with policy"),
        ({"score": "lamp"}, "devices take the smallest of each tensor"),
        ({"solo_rounds": 1}, "which knows none of them"),
        ({"held_out": 0.0}, "held_out must be above 0"),
        ({"own_share": 1.0}, "own_share must be more than 0 and less than 1"),
        ({"policy": "server", "tier_by": "width"}, "it is about tiers"),
        (
            {"policy": "tiered", "tier_by": "distance", "biased": True, "tiers": {"a": 0.5}},
            'must be false with tier_by "distance"',
        ),
        ({"mask_labels": True}, "it is for devices of different strength"),
        (
            {"policy": "tiered", "tier_by": "width", "density": 0.5, "tiers": {"a": 0.5}},
            "tiers are cut from the whole model",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(policy: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        PruningPolicy(**({"policy": "personal", "density": 0.6} | policy))


@pytest.mark.parametrize(
    ("init", "feedback", "sentence"),
    [
        ("template", "none", 'must be "seeded" where personal models rewind'),
        ("seeded", "ef21", 'must not be "ef21" with policy "personal"'),
    ],
)
def test_a_plan_refuses_what_does_not_go_together(
    make_plan: MakePlan, init: str, feedback: str, sentence: str
) -> None:
    pruning = PruningPolicy(policy="personal", density=0.6, rewind=True)
    codec = CodecSettings(feedback=feedback)
    with pytest.raises(SettingError) as caught:
        replace(make_plan(init=init), codec=codec, pruning=pruning)
    assert sentence in str(caught.value)


class Net(nn.Module):
    """A residual net in small: the first convolution's channels are tied to those of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 4, 3)
        self.last = nn.Linear(4 * 4 * 4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        begun = torch.relu(self.norm(self.first(inputs)))
        return self.last(torch.relu(self.third(begun + self.second(begun))).flatten(1))


@pytest.fixture(scope="module")
def channels() -> tuple[Layout, tuple[ChannelSet, ...]]:
    from hedgerow_edge_client.parameters import module_layout
    from hedgerow_export import make_template

    module = Net()
    layout = module_layout(module)
    template = make_template(module, torch.randn(2, 1, 6, 6), layout=layout)
    policy = PruningPolicy(policy="tiered", tier_by="width", density=1.0, tiers={"a": 0.5})
    return layout, told_channels(policy, template=lambda: template, layout=layout)


def test_channels_are_told_as_they_are_in_the_graph(
    channels: tuple[Layout, tuple[ChannelSet, ...]],
) -> None:
    layout, sets = channels
    assert sorted(found.size for found in sets) == [4, 8]
    for found in sets:
        assert ChannelSet.parse(found.to_text(), layout=layout) == found
    tied = next(found for found in sets if found.size == 8)
    names = {layout.tensors[piece.tensor].name for piece in tied.slices}
    assert names >= {"first.weight", "norm.weight", "norm.running_var", "second.weight", "third.weight"}


def test_a_tier_is_the_model_with_the_first_channels(
    channels: tuple[Layout, tuple[ChannelSet, ...]],
) -> None:
    layout, sets = channels
    tier = width_tier(sets, mask=Mask.dense(layout), share=0.5)
    shapes = {spec.name: spec.shape for spec in tier.mask.layout.tensors}
    assert shapes["first.weight"] == (4, 1, 3, 3)
    assert shapes["norm.running_mean"] == (4,)
    assert shapes["second.weight"] == (4, 4, 3, 3)
    assert shapes["third.weight"] == (2, 4, 3, 3)
    # A flattened channel is 16 inputs of the last layer, whose outputs are the model's.
    assert shapes["last.weight"] == (3, 32)
    assert shapes["last.bias"] == (3,)
    start = layout.offsets[[spec.name for spec in layout.tensors].index("last.weight")]
    part = tier.covered[start : start + 192].reshape(3, 64)
    assert part[:, :32].all()
    assert not part[:, 32:].any()
    assert tier.mask.num_live == len(tier.positions) == np.count_nonzero(tier.covered)
    smaller = width_tier(sets, mask=Mask.dense(layout), share=0.25)
    assert not (smaller.covered & ~tier.covered).any()


def test_the_first_channels_are_averaged_over_those_who_have_them(
    make_plan: MakePlan,
    make_rig: MakeRig,
    monkeypatch: pytest.MonkeyPatch,
    channels: tuple[Layout, tuple[ChannelSet, ...]],
) -> None:
    layout, sets = channels
    monkeypatch.setattr("hedgerow_coordinator.coordinator.told_channels", lambda *_, **__: sets)
    plan = plan_with(
        make_plan, policy="tiered", tier_by="width", density=1.0, tiers={"b": 0.5, "c": 0.25}, rounds=2
    )
    rig = make_rig(plan, tensors=layout.tensors)
    rig.fake.num_samples = {"a": 10, "b": 20, "c": 30}
    rig.start()
    rig.until_round(1)
    before = rig.coordinator.state.weights.copy()
    rig.until_round(2)
    tiers = {
        name: width_tier(sets, mask=Mask.dense(layout), share=s) for name, s in (("b", 0.5), ("c", 0.25))
    }
    asked = {name: request for name, request, _ in rig.fake.done if request.round == 1}
    covered = {"a": np.ones(layout.num_parameters, np.bool_)}
    covered |= {name: tier.covered for name, tier in tiers.items()}
    total, held = np.zeros(layout.num_parameters), np.zeros(layout.num_parameters)
    for name, samples in rig.fake.num_samples.items():
        assert np.array_equal(asked[name].live, covered[name])
        result = next(r for n, q, r in rig.fake.done if n == name and q.round == 1)
        total += samples * np.where(covered[name], result.weights - before, 0)
        held += samples * covered[name]
    np.testing.assert_allclose(rig.coordinator.state.weights, before + total / held, atol=1e-6)
    assert (asked["a"].width, asked["b"].width, asked["c"].width) == (1.0, 0.5, 0.25)
    sizes = {record.client: record.num_bytes for record in rig.store.update_records(1)}
    assert sizes["a"] - sizes["b"] == 4 * (layout.num_parameters - tiers["b"].mask.num_live)
    assert sizes["b"] - sizes["c"] == 4 * (tiers["b"].mask.num_live - tiers["c"].mask.num_live)


def test_a_model_without_channels_is_refused() -> None:
    from hedgerow_edge_client.parameters import module_layout
    from hedgerow_export import make_template

    module = nn.Linear(4, 3)
    layout = module_layout(module)
    template = make_template(module, torch.randn(2, 4), layout=layout)
    policy = PruningPolicy(policy="tiered", tier_by="width", density=1.0, tiers={"a": 0.5})
    with pytest.raises(PruningError, match="no channels that can be taken away"):
        told_channels(policy, template=lambda: template, layout=layout)
    assert told_channels(PruningPolicy(), template=lambda: b"", layout=layout) == ()


@pytest.mark.parametrize(
    "text", ["", "4", "4;0,0,0,1,1,1", "99;0,0,0,1,1,1,1", "4;7,0,0,1,1,1,1", "4;0,0,-1,1,1,1,1", "x;0"]
)
def test_channels_that_are_not_in_the_model_are_refused(text: str) -> None:
    from hedgerow_codecs import LayoutError

    layout = Layout(tensors=(TensorSpec(name="a", shape=(4, 2), kind="linear", prunable=True),))
    with pytest.raises(LayoutError, match="channels"):
        ChannelSet.parse(text, layout=layout)
