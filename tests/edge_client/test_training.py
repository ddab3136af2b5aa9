import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.errors import TaskError, TrainingCancelled, TrainingDiverged
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.requests import Progress, TrainRequest
from hedgerow_edge_client.samples import make_samples
from hedgerow_edge_client.task import Task
from hedgerow_edge_client.training import train


def make_task(**changes: Any) -> Task:
    """Make a task of which nothing but the loss is called."""
    values: dict[str, Any] = {
        "path": Path("task.py"),
        "build_model": lambda: None,
        "load_data": lambda data, client: None,
        "loss": torch.nn.functional.mse_loss,
        "metric": "mse",
    }
    return Task(**{**values, **changes})


def request_for(module: nn.Module, **changes: Any) -> TrainRequest:
    """Ask for a training from the module's weights, with those that are not live pruned."""
    weights = read_parameters(module, module_layout(module))
    weights[~changes.get("live", np.ones(weights.size, np.bool_))] = 0
    values: dict[str, Any] = {
        "round": 3,
        "seed": 7,
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.1,
        "weights": weights,
        "live": np.ones(weights.size, np.bool_),
    }
    return TrainRequest(**{**values, **changes})


def one_neuron() -> tuple[nn.Module, Any]:
    """Weights (1, 2), one sample (1, 1) -> 1: the output is 3, the squared error 4, its gradient (4, 4)."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
    return module, make_samples((np.ones((1, 2)), np.ones((1, 1))), source="load_data")


def net(*, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(6) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 3))


def classes(count: int) -> Any:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((count, 4)).astype(np.float32)
    return make_samples((inputs, inputs.argmax(1) % 3), source="load_data")


CLASSIFY = make_task(loss=nn.functional.cross_entropy, metric="accuracy")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.6, 1.6]),
        # The gradient is (4, 4) + 0.5 (1, 2).
        ({"weight_decay": 0.5}, [0.55, 1.5]),
        # The second gradient is 2 (2.2 - 1) = 2.4; FedProx adds 1 (0.6 - 1) = -0.4 to it.
        ({"epochs": 2}, [0.36, 1.36]),
        ({"epochs": 2, "proximal_mu": 1.0}, [0.4, 1.4]),
        # The second velocity is 0.5 * 4 + 2.4.
        ({"epochs": 2, "momentum": 0.5}, [0.16, 1.16]),
        # Without the first weight the output is 2 and the gradient 2.
        ({"live": np.array([False, True])}, [0.0, 1.8]),
    ],
)
def test_steps_agree_with_a_computation_by_hand(changes: dict[str, Any], expected: list[float]) -> None:
    module, samples = one_neuron()
    result = train(module, samples, request_for(module, **changes), task=make_task())
    np.testing.assert_allclose(result.weights, expected, rtol=1e-6)
    assert result.num_samples == 1
    assert result.steps == changes.get("epochs", 1)
    assert result.accuracy is None


def test_the_loss_is_the_mean_of_the_last_epoch_before_each_step() -> None:
    module, samples = one_neuron()
    assert train(module, samples, request_for(module), task=make_task()).loss == 4.0
    module, samples = one_neuron()
    second = train(module, samples, request_for(module, epochs=2), task=make_task())
    assert second.loss == pytest.approx(1.44)


def test_the_loss_weighs_batches_by_their_size() -> None:
    # The outputs are the inputs, and the learning rate is too small to matter: one error of 3, four of 0.
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    inputs = np.arange(5.0).reshape(5, 1)
    samples = make_samples((inputs, inputs + 3 * (inputs == 2)), source="x")
    request = request_for(module, batch_size=3, learning_rate=1e-12)
    assert train(module, samples, request, task=make_task()).loss == pytest.approx(9 / 5)


def test_accuracy_is_the_share_of_right_answers() -> None:
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
    samples = make_samples((np.eye(2)[[0, 0, 0, 1]], np.array([0, 0, 1, 1])), source="x")
    result = train(module, samples, request_for(module, learning_rate=1e-9), task=CLASSIFY)
    assert result.accuracy == 0.75


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_full_batches_agree_with_torch_under_a_mask(momentum: float, weight_decay: float) -> None:
    samples = classes(16)
    module, reference = net(), net()
    rng = np.random.default_rng(2)
    live = rng.random(read_parameters(module, module_layout(module)).size) < 0.5
    request = request_for(
        module, epochs=5, batch_size=16, momentum=momentum, weight_decay=weight_decay, live=live
    )
    result = train(module, samples, request, task=CLASSIFY)

    masks = module_layout(reference).split(live.astype(np.float32))
    held = {name: torch.from_numpy(masks[name]) for name, _ in reference.named_parameters()}
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    inputs, targets = samples.batch(range(16))
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.mul_(held[name])
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(inputs), targets).backward()
        for name, parameter in reference.named_parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(held[name])
        optimizer.step()
    expected = read_parameters(reference, module_layout(reference))
    np.testing.assert_allclose(result.weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_what_is_not_live_stays_to_the_bit_even_where_its_gradient_is_no_number(
    pruned: bool, power: float
) -> None:
    module = net(norm=True)
    before = read_parameters(module, module_layout(module))
    live = np.ones(before.size, np.bool_)
    live[:24:2] = False  # half of the first weight
    dead = torch.from_numpy(~live[:24]).reshape(6, 4)
    module[0].weight.register_hook(lambda gradient: gradient.masked_fill(dead, float("nan")))
    if pruned:
        before[~live] = 0  # and stays +0, not -0
    request = request_for(
        module,
        epochs=3,
        momentum=0.9,
        weight_decay=0.1,
        proximal_mu=0.1,
        weights=before,
        live=live,
        power=power,
    )
    result = train(module, classes(20), request, task=CLASSIFY)
    assert result.weights[~live].tobytes() == before[~live].tobytes()
    assert (result.weights[:24][live[:24]] != before[:24][live[:24]]).all()


def test_the_same_request_gives_the_same_bits_whatever_ran_before() -> None:
    samples = classes(21)

    def run(module: nn.Module, seed: int) -> bytes:
        request = request_for(net(norm=True, dropout=0.5), epochs=2, momentum=0.9, seed=seed)
        return train(module, samples, request, task=CLASSIFY).weights.tobytes()

    module = net(norm=True, dropout=0.5)
    first = run(module, 5)
    assert run(module, 6) != first
    torch.rand(3)
    assert run(module, 5) == first
    assert run(net(norm=True, dropout=0.5), 5) == first


def test_batches_are_shuffled_anew_in_each_epoch_and_hold_every_sample_once() -> None:
    seen: list[list[float]] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets.flatten().tolist())
        return nn.functional.mse_loss(outputs, targets)

    module = nn.Linear(1, 1)
    samples = make_samples((np.zeros((10, 1)), np.arange(10.0).reshape(10, 1)), source="x")
    train(
        module,
        samples,
        request_for(module, epochs=2, batch_size=4, learning_rate=1e-6),
        task=make_task(loss=loss),
    )
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("count", [9, 10, 12])
def test_batch_norm_survives_a_last_batch_of_one(count: int) -> None:
    module = net(norm=True)
    result = train(module, classes(count), request_for(module), task=CLASSIFY)
    assert result.steps == {9: 2, 10: 3, 12: 3}[count]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (3, 1)])
def test_batch_norm_on_single_samples_is_a_sentence(count: int, batch_size: int) -> None:
    module = net(norm=True)
    with pytest.raises(TaskError, match="raise batch_size in the plan, or give this client more data"):
        train(module, classes(count), request_for(module, batch_size=batch_size), task=CLASSIFY)


def test_running_statistics_are_part_of_the_result() -> None:
    module = net(norm=True)
    layout = module_layout(module)
    request = request_for(module, batch_size=8, learning_rate=1e-9)
    samples = classes(8)
    inputs, _ = samples.batch(range(8))
    mean = module[0](inputs).mean(0).detach().numpy()
    result = train(module, samples, request, task=CLASSIFY)
    # Torch's momentum is 0.1 and the running mean starts at 0.
    np.testing.assert_allclose(
        layout.split(result.weights)["1.running_mean"], 0.1 * mean, rtol=1e-4, atol=1e-6
    )


def test_frozen_parameters_do_not_move() -> None:
    module = net()
    module[0].weight.requires_grad_(False)
    request = request_for(module, weight_decay=0.1)
    result = train(module, classes(8), request, task=CLASSIFY)
    assert (result.weights[:24] == request.weights[:24]).all()
    assert (result.weights[24:] != request.weights[24:]).any()


def test_the_time_limit_ends_training_after_the_step_that_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("hedgerow_edge_client.training.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    module = net()
    result = train(module, classes(40), request_for(module, epochs=9, max_seconds=3.0), task=CLASSIFY)
    assert result.steps == 3


def test_progress_counts_from_one() -> None:
    seen: list[Progress] = []
    module = net()
    train(module, classes(8), request_for(module, epochs=2), task=CLASSIFY, on_progress=seen.append)
    assert [(p.epoch, p.epochs, p.batch, p.batches) for p in seen] == [
        (1, 2, 1, 2),
        (1, 2, 2, 2),
        (2, 2, 1, 2),
        (2, 2, 2, 2),
    ]


def test_should_stop_is_asked_before_every_batch() -> None:
    answers = iter([False, False, True])
    seen: list[Progress] = []
    module = net()
    with pytest.raises(TrainingCancelled, match="round 3"):
        train(
            module,
            classes(40),
            request_for(module),
            task=CLASSIFY,
            on_progress=seen.append,
            should_stop=lambda: next(answers),
        )
    assert len(seen) == 2


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_says_where_and_what_to_do(value: str) -> None:
    module, samples = one_neuron()
    task = make_task(loss=lambda outputs, targets: outputs.sum() * float(value))
    with pytest.raises(
        TrainingDiverged, match=rf"round 3, step 1: the loss is {value}; lower learning_rate \(now 0.1\)"
    ) as caught:
        train(module, samples, request_for(module), task=task)
    assert (caught.value.round, caught.value.step) == (3, 1)


def test_a_weight_that_leaves_the_finite_numbers_in_the_last_step_is_found() -> None:
    module, samples = one_neuron()
    with pytest.raises(TrainingDiverged, match="a weight is not finite"):
        train(module, samples, request_for(module, learning_rate=1e38), task=make_task())


def out_of_memory(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
    )


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda o, t: (o - t) ** 2, TaskError, r"shape \(2, 1\): return a tensor with one number"),
        (lambda o, t: 3.0, TaskError, "a float: return a tensor"),
        (lambda o, t: (o.detach() - t).sum(), TaskError, "does not depend on the model's parameters"),
        (lambda o, t: o.missing, TaskError, "loss failed: AttributeError"),
        (out_of_memory, MemoryError, "not enough memory in loss"),
    ],
)
def test_a_loss_that_cannot_be_used_is_a_sentence(loss: Any, error: type[Exception], message: str) -> None:
    module = nn.Linear(2, 1)
    samples = make_samples((np.ones((2, 2)), np.ones((2, 1))), source="x")
    with pytest.raises(error, match=message):
        train(module, samples, request_for(module), task=make_task(loss=loss))


def test_data_that_does_not_fit_the_model_names_the_batch() -> None:
    module = nn.Linear(5, 1)
    samples = make_samples((np.ones((2, 2)), np.ones((2, 1))), source="x")
    with pytest.raises(TaskError, match=r"the model, on a batch of shape \(2, 2\), failed"):
        train(module, samples, request_for(module), task=make_task())


def test_a_request_for_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="the request has 2 weights, the model 51"):
        train(net(), classes(8), request_for(one_neuron()[0]), task=CLASSIFY)


def test_training_loads_no_compiler() -> None:
    # torch.optim.SGD would load torch._dynamo and sympy: 80 MB on a device that has 1 GB.
    code = """
from test_training import CLASSIFY, classes, net, request_for, train
module = net(norm=True, dropout=0.5)
train(module, classes(9), request_for(module, momentum=0.9), task=CLASSIFY)
import sys
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "onnx", "onnxruntime"} & set(sys.modules)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
