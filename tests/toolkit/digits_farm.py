"""Six devices that train on the packaged digits in this process, whole rounds of them in seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from hedgerow.partition import dirichlet_split
from hedgerow.simulation import Simulation
from hedgerow_coordinator import Coordinator, RunStore, parse_plan
from hedgerow_edge_client import TrainRequest, TrainResult
from hedgerow_edge_client.parameters import module_layout
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import load_task
from hedgerow_edge_client.training import train
from hedgerow_export import evaluate, fill_template, make_template

TASK = """
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

def build_model():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )

def load_data(folder, client):
    digits, rows = load_digits(), np.load(folder / f"{client}.npy")
    return digits.images[rows, None].astype(np.float32) / 16, digits.target[rows]

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
PLAN = """
[run]
name = "t"
rounds = 40
seed = {seed}
[cohort]
min_clients = 6
[training]
batch_size = 32
epochs = 2
learning_rate = 0.05
momentum = 0.5
[codec]
feedback = "none"
[codec.uplink]
codec_id = "float32"
[codec.downlink]
codec_id = "float32"
[pruning]
{pruning}
"""
CLIENTS = ("full-0", "full-1", "half-2", "half-3", "quarter-4", "quarter-5")
FULL = 'policy = "none"'


class Trainers:
    def __init__(self, folder: Path) -> None:
        path = folder / "task.py"
        path.write_text(TASK)
        self.task = load_task(path)
        torch.manual_seed(0)
        self.module = self.task.model()
        self.layout = module_layout(self.module)
        self.template = make_template(self.module, torch.randn(3, 1, 8, 8), layout=self.layout)
        self._folder = folder
        self._samples: dict[str, Samples] = {}

    def part(self, labels: str, *, seed: int) -> None:
        """Give each client its rows: an equal mix of labels, or Dirichlet(0.5) shares of each."""
        rows = np.random.default_rng(0).permutation(1797)[:1400]
        parts = [rows[number::6] for number in range(6)]
        if labels == "mixed":
            targets = load_digits().target[rows]
            split = dirichlet_split(targets, num_clients=6, alpha=0.5, seed=seed, min_samples=20)
            parts = [rows[part] for part in split]
        for name, part in zip(CLIENTS, parts, strict=True):
            np.save(self._folder / f"{name}.npy", part)
            self._samples[name] = self.task.samples(self._folder, client=name)

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        return [
            train(self.module, self._samples[name], request, task=self.task) for name, request in requests
        ]


@dataclass(frozen=True)
class Outcome:
    accuracy: float
    bytes_by_client: Mapping[str, float]
    rounds_by_client: Mapping[str, int]


def run(trainers: Trainers, folder: Path, *, pruning: str, labels: str, seed: int) -> Outcome:
    trainers.part(labels, seed=seed)
    plan = parse_plan(PLAN.format(seed=seed, pruning=pruning).encode())
    with RunStore.create(
        folder, plan_bytes=plan.source, template_bytes=trainers.template, run_id="t"
    ) as store:
        simulation = Simulation(
            lambda read_traffic: Coordinator(
                plan,
                layout=trainers.layout,
                store=store,
                first_weights=lambda: None,
                evaluate=None,
                read_traffic=read_traffic,
            ),
            clients=CLIENTS,
            layout=trainers.layout,
            namespace="default",
            trainers=trainers,
        )
        simulation.run()
        assert simulation.coordinator.failure is None, simulation.coordinator.failure
        records = list(store.update_records())
        weights = simulation.coordinator.state.weights
    digits, rows = load_digits(), np.random.default_rng(0).permutation(1797)[1400:]
    inputs = digits.images[rows, None].astype(np.float32) / 16
    model = fill_template(trainers.template, weights, layout=trainers.layout)
    by_client = {name: [r.num_bytes for r in records if r.client == name] for name in CLIENTS}
    return Outcome(
        accuracy=evaluate(model, inputs, digits.target[rows], "accuracy").value,
        bytes_by_client={name: float(np.mean(sizes)) for name, sizes in by_client.items()},
        rounds_by_client={name: len(sizes) for name, sizes in by_client.items()},
    )
