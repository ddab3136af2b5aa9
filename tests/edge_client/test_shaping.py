"""Training that is bent towards a sparse model, step by step, against the formulas."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.descent import Descent
from hedgerow_edge_client.parameters import module_layout
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.shaping import Shaping
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.training import train

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))

def load_data(folder, client):
    return torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 1, 0])

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
MIDDLE = slice(6, 10)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    # Only the layer in the middle is pruned.
    return replace(load_task(path), protect=("0.weight", "2.weight"))


def request_of(weights: np.ndarray, live: np.ndarray, **changes: object) -> TrainRequest:
    settings: dict[str, object] = {"round": 1, "seed": 3, "epochs": 1, "batch_size": 4, "learning_rate": 0.5}
    request = TrainRequest(weights=weights, live=live, **(settings | changes))  # type: ignore[arg-type]
    return TrainRequest.from_wire(request.to_wire())


def model(task: Task) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    torch.manual_seed(1)
    module = task.model()
    weights = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy().copy()
    weights[MIDDLE] = [0.75, 0.0, -0.5, 0.25]
    live = np.ones(len(weights), np.bool_)
    live[7] = False
    return module, weights, live


def gradient_of(task: Task, module: nn.Module, weights: np.ndarray) -> np.ndarray:
    vector = torch.from_numpy(weights.copy())
    nn.utils.vector_to_parameters(vector, module.parameters())
    module.zero_grad()
    inputs, targets = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 1, 0])
    task.loss(module(inputs), targets).backward()
    found = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None]).numpy().copy()
    module.zero_grad()
    return found


def test_pruned_weights_train_on_behind_the_mask(task: Task) -> None:
    module, weights, live = model(task)
    hidden, first = 0.0, weights.copy()
    # Lin 2020, equation 1: the gradient is that of the pruned model, the step one of all weights.
    for _ in range(2):
        gradient = gradient_of(task, module, weights)
        hidden -= np.float32(0.5) * gradient[7]
        weights = np.where(live, weights - np.float32(0.5) * gradient, np.float32(0))
    assert abs(hidden) > 1e-3
    asked = Question(kind="latent", at=1.0)
    request = request_of(first, live, epochs=2, shaping=Shaping(latent=True), question=asked)
    result = train(module, task.samples(None, client="a"), request, task=task)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-5, atol=1e-7)
    assert result.scores is not None
    assert result.scores[7] == pytest.approx(hidden, rel=1e-5)
    assert not result.scores[np.arange(len(weights)) != 7].any()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", [0.1, 0.0, -0.1, 0.1]),
        ("l2", [0.075, 0.0, -0.05, 0.025]),
        # 0.75^2 + 0.5^2 + 0.25^2 = 0.875
        ("norm", [0.1 * w / 0.875**0.5 for w in (0.75, 0.0, -0.5, 0.25)]),
    ],
)
def test_a_regularizer_pulls_prunable_tensors_alone(task: Task, kind: str, expected: list[float]) -> None:
    module, weights, live = model(task)
    gradient = gradient_of(task, module, weights)
    request = request_of(weights, live, shaping=Shaping(regularizer=kind, strength=0.1))
    result = train(module, task.samples(None, client="a"), request, task=task)
    pulled = (weights - result.weights) / 0.5 - gradient
    np.testing.assert_allclose(pulled[MIDDLE], [*expected[:1], -gradient[7], *expected[2:]], atol=1e-6)
    outside = np.delete(pulled, range(6, 10))
    np.testing.assert_allclose(outside, 0, atol=1e-6)


def test_an_extrusion_pulls_the_smallest_weights_within_its_budget(task: Task) -> None:
    module, weights, live = model(task)
    layout = module_layout(module, protect=task.protect)
    shaping = Shaping(extrusion=0.2, marked=0.67, first_rate=4.0)
    asked = Question(kind="gradient", at=1.0, top=True, swap=0.67)
    request = request_of(weights, live, learning_rate=0.01, shaping=shaping, question=asked)
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), module.parameters())
    descent = Descent(module, layout, request, live=live, num_steps=4)
    middle = list(module.parameters())[2]
    rates, norms = [], []
    for step in range(4):
        before = middle.detach().clone().reshape(-1)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        descent.step()
        # Two of three live weights are marked, 0.25 and -0.5; equations 2 to 5 of FedMef.
        norm = float((before[2] ** 2 + before[3] ** 2).sqrt())
        rate = max(0.01, (8 - 2 * step) / (8 - step) * (2 / (1 + np.exp(-norm)) - 1) * 4.0)
        wanted = before - rate * 2 * 0.2 * torch.tensor([0.0, 0.0, 1.0, 1.0]) * before
        torch.testing.assert_close(middle.detach().reshape(-1), wanted, rtol=1e-5, atol=1e-7)
        rates.append(rate)
        norms.append(norm)
    assert rates == sorted(rates, reverse=True)
    assert norms == sorted(norms, reverse=True)
    assert rates[0] > 0.5


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([1], "shapes the training in a way"),
        ({"regularizer": "l9"}, "regulariser 'l9' is not known here"),
        ({"strength": "much"}, "says strength 'much'"),
        ({"strength": -1.0}, "makes no sense"),
        ({"activations": 1.5}, "makes no sense"),
        ({"latent": 1}, "says latent 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(told: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Shaping.read(told)  # type: ignore[arg-type]


def test_what_a_later_version_tells_is_ignored() -> None:
    shaping = Shaping(latent=True, regularizer="l1", strength=0.5)
    assert Shaping.read(shaping.to_plain() | {"new": 1}) == shaping
