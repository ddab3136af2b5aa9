"""Powerpropagation against torch's own descent on the roots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.training import train

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

def load_data(folder, client):
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[:, :3].argmax(dim=1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return load_task(path)


def run(task: Task, *, power: float, momentum: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    torch.manual_seed(2)
    module = task.model()
    layout = module_layout(module)
    live = np.ones(layout.num_parameters, np.bool_)
    live[[1, 5, 8]] = False
    weights = np.where(live, read_parameters(module, layout), 0).astype(np.float32)
    request = TrainRequest(
        round=1,
        seed=3,
        epochs=3,
        batch_size=16,
        learning_rate=0.2,
        momentum=momentum,
        weights=weights,
        live=live,
        power=power,
    )
    request = TrainRequest.from_wire(request.to_wire())
    result = train(module, task.samples(None, client="a"), request, task=task)
    return weights, live, result.weights


@pytest.mark.parametrize(("power", "momentum"), [(2.0, 0.0), (2.0, 0.9), (1.5, 0.0), (4.0, 0.5)])
def test_it_is_descent_on_the_roots(task: Task, power: float, momentum: float) -> None:
    weights, live, found = run(task, power=power, momentum=momentum)
    # One batch of all samples, so that their order does not matter.
    inputs, targets = task.samples(None, client="a").batch(range(16))
    flat = torch.from_numpy(weights).double()
    cuts = torch.split(flat, [20, 5, 15, 3])
    roots = [cuts[0].sign() * cuts[0].abs() ** (1 / power), cuts[1], cuts[2], cuts[3]]
    roots[2] = cuts[2].sign() * cuts[2].abs() ** (1 / power)
    roots = [root.clone().requires_grad_() for root in roots]
    descent = torch.optim.SGD(roots, lr=0.2, momentum=momentum)
    dead = torch.from_numpy(~live[:20])

    def values() -> list[torch.Tensor]:
        first = (roots[0] * roots[0].abs() ** (power - 1)).reshape(5, 4)
        second = (roots[2] * roots[2].abs() ** (power - 1)).reshape(3, 5)
        return [first, roots[1], second, roots[3]]

    for _ in range(3):
        descent.zero_grad()
        a, b, c, d = values()
        hidden = torch.tanh(inputs.double() @ a.T + b)
        nn.functional.cross_entropy(hidden @ c.T + d, targets).backward()
        assert roots[0].grad is not None
        roots[0].grad[dead] = 0
        descent.step()
    expected = torch.cat([value.detach().reshape(-1) for value in values()]).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    assert not found[~live].any()


def test_a_power_of_one_is_plain_descent(task: Task) -> None:
    assert np.array_equal(run(task, power=1.0)[2], run(task, power=1)[2])
    assert not np.array_equal(run(task, power=1.0)[2], run(task, power=2.0)[2])


@pytest.mark.parametrize("power", [0.5, 9.0, float("nan")])
def test_other_powers_are_refused(task: Task, power: float) -> None:
    with pytest.raises(ValueError, match="power must be from 1 to 8"):
        run(task, power=power)
