"""Every recipe trains a real network to the end, with real scores and proposals of the devices."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.local_trainers import LocalTrainers
from numpy.typing import NDArray

from hedgerow.simulation import Simulation
from hedgerow_codecs import Layout, Mask, seeded_parameters
from hedgerow_coordinator import Coordinator, RunStore, parse_plan, plan_template
from hedgerow_coordinator.pruning import RECIPES, with_settings
from hedgerow_export import make_template

pytestmark = pytest.mark.usefixtures("alone")

ROUNDS = 12
CLIENTS = ("a", "b", "c", "d")
TASK = """
import numpy as np
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))

def load_data(folder, client):
    inputs = np.random.default_rng(ord(client)).normal(size=(160, 12)).astype(np.float32)
    return inputs, inputs[:, :3].argmax(1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def local_trainers(path: Path) -> LocalTrainers:
    """Return the clients' trainers, with 1,000 samples that no client has to evaluate on."""
    path.write_text(TASK)
    inputs = np.random.default_rng(7).normal(size=(1000, 12)).astype(np.float32)
    return LocalTrainers(path, test=(inputs, inputs[:, :3].argmax(1)))


@dataclass(frozen=True)
class Outcome:
    accuracy: float
    mask: Mask
    densities: tuple[float, ...]
    updates: tuple[int, ...]
    traffic: dict[tuple[str, str], int]
    asked: dict[int, str]
    events: tuple[str, ...]
    layout: Layout
    weights: NDArray[np.float32]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("recipes")

    @cache
    def outcome(recipe: str, *, freeze: tuple[str, ...] = ()) -> Outcome:
        trainers = local_trainers(folder / "task.py")
        text = with_settings(
            plan_template(name="t", rounds=ROUNDS, min_clients=4, density=0.5 if freeze else 0.3),
            RECIPES[recipe].settings(ROUNDS),
        )
        text = with_settings(text, {"training": {"learning_rate": 0.2, "batch_size": 16, "epochs": 2}})
        if recipe in ("tiers", "fiarse", "heterofl"):
            # Devices of a simulation have no memory size.
            text = with_settings(text, {"pruning.tiers": {"c": 0.25, "d": 0.0625}})
        if freeze:
            text = with_settings(text, {"model": {"freeze": list(freeze)}})
        plan = parse_plan(text.encode())
        template = b"x"
        if recipe in ("synflow", "heterofl", "hermes"):
            # Those that look at the graph, which takes seconds to export.
            template = make_template(trainers.module, torch.randn(3, 12), layout=trainers.layout)
        with RunStore.create(
            folder / "-".join((recipe, *freeze)), plan_bytes=plan.source, template_bytes=template, run_id="t"
        ) as store:
            simulation = Simulation(
                lambda read_traffic: Coordinator(
                    plan,
                    layout=trainers.layout,
                    store=store,
                    first_weights=lambda: None,
                    evaluate=trainers.evaluate,
                    read_traffic=read_traffic,
                ),
                clients=CLIENTS,
                layout=trainers.layout,
                namespace="default",
                trainers=trainers,
            )
            simulation.run()
            assert simulation.coordinator.failure is None
            rounds = [record for record in store.rounds() if record.round > 0]
            accuracy = rounds[-1].accuracy
            assert accuracy is not None
            return Outcome(
                accuracy=accuracy,
                mask=simulation.coordinator.state.mask,
                densities=tuple(record.density for record in rounds),
                updates=tuple(record.updates for record in rounds),
                traffic=store.traffic(),
                asked=trainers.asked,
                events=tuple(event.kind for event in store.events()),
                layout=trainers.layout,
                weights=simulation.coordinator.state.weights,
            )

    return outcome


# Chance is 0.33. Measured: 0.92 (stc) to 0.98, fedavg 0.96; lotteryfl, whose model begins anew in seven of
# the twelve rounds, 0.90; fedpm, whose weights stay as they were drawn, 0.87.
LEAST = 0.87
LESS = {"fedpm": 0.8}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_it_learns(run, recipe: str) -> None:  # type: ignore[no-untyped-def]
    found = run(recipe)
    assert found.accuracy > LESS.get(recipe, LEAST)
    assert "pruning skipped" not in found.events


def test_densities(run) -> None:  # type: ignore[no-untyped-def]
    for recipe in ("random", "feddst", "synflow"):
        assert set(run(recipe).densities) == {run(recipe).mask.density}, recipe
        assert run(recipe).mask.density == pytest.approx(0.3, abs=0.001), recipe
    for recipe in ("snip", "grasp"):
        assert run(recipe).densities[0] == 1, recipe
        assert set(run(recipe).densities[1:]) == {run(recipe).mask.density}, recipe
    assert set(run("fedavg").densities) == set(run("stc").densities) == {1.0}
    assert 0.1 < run("prunefl").mask.density < 1


def test_what_is_asked_and_what_it_costs(run) -> None:  # type: ignore[no-untyped-def]
    assert run("snip").asked == {1: "snip"}
    assert run("grasp").asked == {1: "grasp"}
    assert set(run("feddst").asked.values()) == {"gradient"}
    assert run("feddst").traffic["frames", "votes"] > 0
    assert run("snip").traffic["frames", "scores"] > 0
    for recipe in ("hedgerow", "random", "synflow", "lottery", "seed-norm", "fedavg"):
        assert run(recipe).asked == {}, recipe
        assert not any(way == "frames" for way, _ in run(recipe).traffic), recipe


def test_the_methods_of_server_and_devices(run) -> None:  # type: ignore[no-untyped-def]
    """What each of them asks for, keeps and sends, in a real training."""
    asked = {"feddip": "latent", "sparsyfed": "magnitude", "fedrts": "gradient", "fedmef": "gradient"}
    for recipe, kind in asked.items():
        assert set(run(recipe).asked.values()) == {kind}, recipe
    assert run("fedtiny").asked[1] == "loss"
    assert set(run("fedtiny").asked.values()) == {"loss", "gradient"}
    for recipe in ("fedrts", "fedmef"):
        assert set(run(recipe).densities) == {run(recipe).mask.density}, recipe
    for recipe in ("fedrts", "fedmef", "fedtiny", "sparsyfed"):
        assert run(recipe).mask.density == pytest.approx(0.3, abs=0.001), recipe
    # One half at first; the cubic's last step is that of the last round, whose model is not pruned again.
    assert run("feddip").densities[0] == pytest.approx(0.5, abs=0.001)
    assert run("feddip").mask.density == pytest.approx(0.3, abs=0.01)
    # The union of what devices keep shrinks as they agree, from all to what is left at the end.
    union = run("sparsyfed").densities
    assert union[0] == 1
    assert list(union[1:]) == sorted(union[1:], reverse=True)
    assert union[1] < 0.8
    assert run("fedtiny").densities[0] == 1
    assert run("fedtiny").events.count("mask chosen") == 1
    traffic = {recipe: run(recipe).traffic for recipe in (*asked, "fedtiny", "fedavg")}
    whole = traffic["fedavg"]["received", "chunk"]
    for recipe, kind in {
        "sparsyfed": "votes",
        "fedrts": "votes",
        "fedmef": "scores",
        "fedtiny": "scores",
    }.items():
        assert 0 < traffic[recipe]["frames", kind] < 0.25 * whole, recipe
        assert traffic[recipe]["received", "chunk"] < 0.8 * whole, recipe
    # In a run as short as this the mask changes in every round: what is live and what is not are the whole.
    assert 0.5 * whole < traffic["feddip"]["frames", "scores"] < 0.8 * whole
    assert traffic["feddip"]["received", "chunk"] < 1.15 * whole
    # Indices alone cost less than values; a trial costs next to nothing.
    assert traffic["fedrts"]["frames", "votes"] < traffic["feddip"]["frames", "scores"] / 4
    assert 0 < traffic["fedtiny"]["frames", "losses"] < 4 * 120


@pytest.mark.parametrize("recipe", ["sparsyfed", "fedrts"])
def test_what_is_frozen_is_neither_pruned_nor_sent(run, recipe: str) -> None:  # type: ignore[no-untyped-def]
    frozen = run(recipe, freeze=("0.weight",))
    assert frozen.accuracy > LEAST
    assert frozen.mask.density == pytest.approx(0.5, abs=0.001)
    (part,) = [
        slice(start, start + spec.size)
        for spec, start in zip(frozen.layout.tensors, frozen.layout.offsets, strict=False)
        if spec.name == "0.weight"
    ]
    assert np.array_equal(frozen.weights[part], seeded_parameters(frozen.layout, seed=7)[part])
    # Under a denser mask; what is frozen is half of it.
    assert frozen.traffic["received", "chunk"] < run(recipe).traffic["received", "chunk"]


def test_prunefl_begins_with_one_device(run) -> None:  # type: ignore[no-untyped-def]
    assert run("prunefl").updates == (1, 1, 1, *[4] * 9)


def test_weak_tiers_send_less(run) -> None:  # type: ignore[no-untyped-def]
    everybody, tiers = run("fedavg").traffic, run("fiarse").traffic
    # Two whole models, a quarter and a sixteenth of the prunable weights, and what no tier goes without.
    assert 0.5 < tiers["received", "chunk"] / everybody["received", "chunk"] < 0.75
