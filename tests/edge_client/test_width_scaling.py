"""Training a model that is cut down by width is training the smaller model, with HeteroFL's scaler."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import ChannelSet, ChannelSlice, Mask, width_tier
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.label_mask import with_masked_labels
from hedgerow_edge_client.parameters import module_layout, read_parameters, write_parameters
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.task import load_task
from hedgerow_edge_client.training import train
from hedgerow_edge_client.width_scaling import scaled_outputs

TASK = """
import torch
from torch import nn

class Scaler(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x / self.width if self.training else x

def model(first, second, width):
    return nn.Sequential(
        nn.Linear(4, first), Scaler(width), nn.LayerNorm(first) if False else nn.Tanh(),
        nn.Linear(first, second), Scaler(width), nn.Tanh(), nn.Linear(second, 3),
    )

def build_model():
    return model({first}, {second}, {width})

def load_data(folder, client):
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[:, :3].argmax(dim=1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
SETS = (
    ChannelSet(
        size=8,
        slices=(
            ChannelSlice(tensor=0, axis=0, makes=True),
            ChannelSlice(tensor=1, axis=0),
            ChannelSlice(tensor=2, axis=1),
        ),
    ),
    ChannelSet(
        size=6,
        slices=(
            ChannelSlice(tensor=2, axis=0, makes=True),
            ChannelSlice(tensor=3, axis=0),
            ChannelSlice(tensor=4, axis=1),
        ),
    ),
)


def test_it_is_the_smaller_model(tmp_path: Path) -> None:
    tasks = []
    for name, values in (("whole", (8, 6, 1.0)), ("half", (4, 3, 0.5))):
        path = tmp_path / f"{name}.py"
        filled = TASK.replace("{first}", str(values[0])).replace("{second}", str(values[1]))
        path.write_text(filled.replace("{width}", str(values[2])))
        tasks.append(load_task(path))
    whole, half = tasks[0].model(), tasks[1].model()
    layout, small = module_layout(whole), module_layout(half)
    tier = width_tier(SETS, mask=Mask.dense(layout), share=0.5)
    assert [spec.shape for spec in tier.mask.layout.tensors] == [spec.shape for spec in small.tensors]
    weights = read_parameters(whole, layout)

    def trained(
        module: nn.Module, task: object, start: np.ndarray, live: np.ndarray, width: float
    ) -> np.ndarray:
        request = TrainRequest(
            round=1, seed=3, epochs=2, batch_size=8, learning_rate=0.1, weights=start, live=live, width=width
        )
        request = TrainRequest.from_wire(request.to_wire())
        return train(module, task.samples(None, client="a"), request, task=task).weights  # type: ignore[attr-defined]

    cut = trained(whole, tasks[0], np.where(tier.covered, weights, np.float32(0)), tier.covered, 0.5)
    plain = trained(half, tasks[1], weights[tier.positions], np.ones(small.num_parameters, np.bool_), 1.0)
    np.testing.assert_allclose(cut[tier.positions], plain, atol=1e-6)
    assert not cut[~tier.covered].any()


def test_only_cut_layers_are_scaled_and_only_in_training() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    layout = module_layout(module)
    live = np.ones(layout.num_parameters, np.bool_)
    live[4:8] = False
    live[10:12] = False
    write_parameters(module, layout, np.where(live, np.float32(1), np.float32(0)))
    inputs = torch.ones(1, 2)
    with scaled_outputs(module, live=live, width=0.5):
        module.train()
        assert float(module[0](inputs)[0, 0].detach()) == 6.0
        assert float(module[1](torch.ones(1, 4)).detach()) == 5.0
        module.eval()
        assert float(module[0](inputs)[0, 0].detach()) == 3.0
    module.train()
    assert float(module[0](inputs)[0, 0].detach()) == 3.0


LABELS = """
import torch
from torch import nn

def build_model():
    return nn.Linear(4, 5)

def load_data(folder, client):
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return inputs, {targets}

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def test_a_device_says_nothing_about_labels_that_it_has_not(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(LABELS.replace("{targets}", "3 * (inputs[:, 0] > 0).long()"))
    task = load_task(path)
    samples = task.samples(None, client="a")
    outputs, targets = torch.randn(6, 5), torch.tensor([0, 3, 3, 0, 0, 3])
    masked = with_masked_labels(task, samples).loss(outputs, targets)
    zeros = outputs.clone()
    zeros[:, [1, 2, 4]] = 0.0
    assert torch.equal(masked, nn.functional.cross_entropy(zeros, targets))
    module = task.model()
    layout = module_layout(module)
    start = read_parameters(module, layout)
    request = TrainRequest(
        round=1,
        seed=3,
        epochs=2,
        batch_size=8,
        learning_rate=0.5,
        weights=start,
        live=np.ones(layout.num_parameters, np.bool_),
        mask_labels=True,
    )
    result = train(module, samples, TrainRequest.from_wire(request.to_wire()), task=task)
    moved = (result.weights != start)[:20].reshape(5, 4).any(axis=1)
    assert moved.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [("inputs[:, 0]", "classes as targets"), ("7 * (inputs[:, 0] > 0).long()", "8 classes")],
)
def test_what_has_no_labels_is_refused(tmp_path: Path, targets: str, sentence: str) -> None:
    path = tmp_path / "task.py"
    path.write_text(LABELS.replace("{targets}", targets))
    task = load_task(path)
    with pytest.raises(TaskError, match=sentence):
        with_masked_labels(task, task.samples(None, client="a")).loss(torch.randn(2, 5), torch.tensor([0, 0]))
