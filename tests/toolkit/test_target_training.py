"""A target on real digits: updates are made to fit, and every one that follows does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.local_trainers import LocalTrainers
from sklearn.datasets import load_digits

from hedgerow.exporting import export_run
from hedgerow.simulation import Simulation
from hedgerow_coordinator import Coordinator, RunStore, evaluator, parse_plan
from hedgerow_export import make_template

pytestmark = pytest.mark.usefixtures("alone")

TASK = """
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

def load_data(folder, client):
    digits = load_digits()
    part = slice(int(client), 1400, 4)
    return digits.data[part].astype(np.float32) / 16, digits.target[part]

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
PLAN = """
[run]
name = "t"
rounds = 16
[cohort]
min_clients = 4
[training]
epochs = 2
batch_size = 16
learning_rate = 0.1
[codec.uplink]
codec_id = "uniform"
[pruning]
density = 0.1
start_round = 2
end_round = 14
{more}
[evaluate]
data = "test.npz"
"""


class Trainers(LocalTrainers):
    def __init__(self, path: Path) -> None:
        path.write_text(TASK)
        super().__init__(path)
        self.template = make_template(self.module, torch.randn(3, 64), layout=self.layout)


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Trainers:
    return Trainers(tmp_path_factory.mktemp("task") / "task.py")


def run(trainers: Trainers, folder: Path, *, more: str, text: str = PLAN) -> RunStore:
    digits = load_digits()
    np.savez(
        folder / "test.npz", inputs=digits.data[1400:].astype(np.float32) / 16, targets=digits.target[1400:]
    )
    plan = parse_plan(text.format(more=more).encode(), directory=folder)
    store = RunStore.create(
        folder / "run", plan_bytes=plan.source, template_bytes=trainers.template, run_id="t"
    )
    simulation = Simulation(
        lambda read_traffic: Coordinator(
            plan,
            layout=trainers.layout,
            store=store,
            first_weights=lambda: None,
            evaluate=evaluator(plan, template=trainers.template, layout=trainers.layout),
            read_traffic=read_traffic,
        ),
        clients=("0", "1", "2", "3"),
        layout=trainers.layout,
        namespace="default",
        trainers=trainers,
    )
    simulation.run()
    assert simulation.coordinator.failure is None
    return store


def test_updates_come_to_fit_and_the_model_stays_good(trainers: Trainers, tmp_path: Path) -> None:
    with run(trainers, tmp_path, more="[pruning.target]\nuplink_bytes = 2000") as store:
        rounds = [record for record in store.rounds() if record.round > 0]
        largest = {number: max(r.num_bytes for r in store.update_records(number)) for number in range(1, 17)}
        told = [event for event in store.events() if event.kind.startswith("target")]
    density = {record.round: record.density for record in rounds}
    assert largest[1] > 3000
    # The updates of one mask are not all of one length: the density falls after just those that do not fit.
    for number in range(2, 16):
        assert (density[number + 1] < density[number]) == (largest[number] > 2000), number
    first = next(number for number, size in largest.items() if size <= 2000)
    assert told[0].kind == "target met"
    assert f"has {largest[first]:,} bytes of 2,000: pruning stops at density" in told[0].detail
    assert {event.kind for event in told[1::2]} <= {"target left", "target missed"}
    assert {event.kind for event in told[::2]} == {"target met"}
    # The density that was enough, and not the plan's floor.
    assert 0.15 < density[16] < 0.6
    assert rounds[-1].accuracy is not None
    assert rounds[-1].accuracy > 0.85


def test_the_zip_that_is_bounded_is_the_one_that_export_writes(trainers: Trainers, tmp_path: Path) -> None:
    with run(trainers, tmp_path, more="[pruning.target]\nzip_bytes = 15000") as store:
        told = [event for event in store.events() if event.kind.startswith("target")]
        density = store.rounds()[-1].density
    assert [event.kind for event in told] == ["target met"]
    assert density > 0.1
    exported = export_run(tmp_path / "run", output=tmp_path / "model.onnx")
    # The zip is that of another version's weights, and has the entry with the accuracy.
    assert exported.zip_bytes <= 15_200


def test_channels_go_until_file_and_estimate_fit(trainers: Trainers, tmp_path: Path) -> None:
    text = PLAN.replace("density = 0.1", "density = 1.0\nchannels = 0.25").replace(
        "rounds = 16", "rounds = 14"
    )
    # The dense net has 6,464 multiply-adds, 6.464 ms at this rate.
    bounds = "[pruning.target]\nfile_bytes = 22000\nlatency_ms = 5.0\nmultiply_adds_per_s = 1e6"
    with run(trainers, tmp_path, more=bounds, text=text) as store:
        told = [event for event in store.events() if event.kind.startswith("target")]
        densities = [record.density for record in store.rounds()]
    assert [event.kind for event in told] == ["target met"]
    assert "ms of 5 (estimated at 1e+06 multiply-adds a second)" in told[0].detail
    exported = export_run(tmp_path / "run", output=tmp_path / "model.onnx")
    # The entry with the accuracy is all that was not measured.
    assert exported.onnx_bytes <= 22_000 + 100
    assert exported.product.made.multiply_adds <= 5000 < exported.product.dense.multiply_adds == 6464
    # The least share of the channels was not needed.
    assert 0.25 < densities[-1] < 1
    assert densities.count(densities[-1]) > 2
