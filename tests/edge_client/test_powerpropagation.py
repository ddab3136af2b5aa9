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


def test_the_biased_gradient_is_the_one_of_fiarse(task: Task) -> None:
    torch.manual_seed(2)
    module = task.model()
    layout = module_layout(module)
    first = read_parameters(module, layout)
    live = np.ones(layout.num_parameters, np.bool_)
    weakest = np.argsort(np.abs(first[:20]))[:10]
    live[weakest] = False
    weights = np.where(live, first, 0).astype(np.float32)
    request = TrainRequest(
        round=1,
        seed=3,
        epochs=6,
        batch_size=16,
        learning_rate=1.5,
        weights=weights,
        live=live,
        biased=True,
    )
    found = train(
        module, task.samples(None, client="a"), TrainRequest.from_wire(request.to_wire()), task=task
    )
    # By autograd, with the mask as a function whose derivative is the paper's.
    inputs, targets = task.samples(None, client="a").batch(range(16))
    threshold = float(np.abs(first[:20][live[:20]]).min())

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, size):  # type: ignore[no-untyped-def, override]
            ctx.save_for_backward(size)
            return (size >= threshold).double()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
            (size,) = ctx.saved_tensors
            return grad * 2 * threshold / (size + threshold) ** 2 * (size >= threshold)

    parts = [
        part.clone().requires_grad_()
        for part in torch.split(torch.from_numpy(weights).double(), [20, 5, 15, 3])
    ]
    dead = torch.from_numpy(~live[:20])
    below = 0
    for _ in range(6):
        for part in parts:
            part.grad = None
        masked = parts[0] * Step.apply(parts[0].abs())  # type: ignore[no-untyped-call]
        hidden = torch.tanh(inputs.double() @ masked.reshape(5, 4).T + parts[1])
        nn.functional.cross_entropy(hidden @ parts[2].reshape(3, 5).T + parts[3], targets).backward()
        with torch.no_grad():
            for part in parts:
                assert part.grad is not None
                step = part.grad.masked_fill(dead, 0) if part is parts[0] else part.grad
                part -= 1.5 * step
        below += int(((parts[0].abs() < threshold) & ~dead).sum())
    assert below > 0  # some have left the tier on the way
    expected = torch.cat([part.detach() for part in parts]).numpy()
    np.testing.assert_allclose(found.weights, expected, rtol=2e-4, atol=1e-6)
