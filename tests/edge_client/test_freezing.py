"""Training with frozen tensors: what is frozen comes out to the bit, the rest as if it had stood alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.freezing import frozen_tensors
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.samples import make_samples
from hedgerow_edge_client.task import Task
from hedgerow_edge_client.training import train

CLASSIFY = Task(
    path=Path("task.py"),
    build_model=lambda: None,
    load_data=lambda data, client: None,
    loss=nn.functional.cross_entropy,
    metric="accuracy",
)
BODY = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")


def net(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(6) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), middle, nn.ReLU(), nn.Dropout(0.0), nn.Linear(6, 3))


def classes(count: int) -> Any:
    inputs = np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)
    return make_samples((inputs, inputs.argmax(1) % 3), source="load_data")


def request_for(module: nn.Module, **changes: Any) -> TrainRequest:
    weights = read_parameters(module, module_layout(module))
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


def parts(module: nn.Module, flat: Any) -> dict[str, bytes]:
    return {name: part.tobytes() for name, part in module_layout(module).split(flat).items()}


@pytest.mark.parametrize(
    "changes", [{}, {"momentum": 0.5, "weight_decay": 0.1}, {"proximal_mu": 1.0}, {"power": 2.0}]
)
def test_frozen_tensors_come_out_as_they_went_in(changes: dict[str, Any]) -> None:
    module = net(norm=True)
    with torch.no_grad():
        module[0].bias[0] = -0.0
    request = request_for(module, epochs=2, frozen=BODY, **changes)
    before, after = (
        parts(module, request.weights),
        parts(module, train(module, classes(12), request, task=CLASSIFY).weights),
    )
    assert {name for name in before if before[name] != after[name]} == {"4.weight", "4.bias"}


def test_a_frozen_norm_trains_the_rest_with_its_own_statistics() -> None:
    module, samples = net(norm=True), classes(12)
    request = request_for(module, epochs=1, batch_size=12, frozen=BODY)
    result = train(module, samples, request, task=CLASSIFY)
    # By hand: the body in evaluation mode, then one step of the head.
    alone = net(norm=True).eval()
    inputs, targets = samples.batch(list(range(12)))
    with torch.no_grad():
        features = alone[2](alone[1](alone[0](inputs)))
    loss = nn.functional.cross_entropy(alone[4](features), targets)
    loss.backward()
    wanted = alone[4].weight - 0.1 * alone[4].weight.grad
    found = module_layout(module).split(result.weights)["4.weight"]
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=1e-7)
    assert result.loss == pytest.approx(float(loss.detach()))


def test_the_module_is_afterwards_what_it_was() -> None:
    module = net(norm=True)
    train(module, classes(12), request_for(module, frozen=BODY), task=CLASSIFY)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert "train" not in vars(module[1])
    module.train()
    assert module[1].training
    before = parts(module, read_parameters(module, module_layout(module)))
    after = parts(module, train(module, classes(12), request_for(module), task=CLASSIFY).weights)
    assert all(before[name] != after[name] for name in before)


def test_train_cannot_wake_a_frozen_norm() -> None:
    module = net(norm=True).train()
    with frozen_tensors(module, BODY):
        module.eval()
        assert module.train()[1].training is False
        assert module[3].training
        assert not module[0].weight.requires_grad
    assert module.train()[1].training


def test_parameters_that_the_task_froze_stay_without_gradient() -> None:
    module = net()
    module[0].weight.requires_grad_(False)
    with frozen_tensors(module, ["0.weight", "0.bias"]):
        pass
    assert not module[0].weight.requires_grad
    assert module[0].bias.requires_grad


def test_a_proposal_leaves_frozen_tensors_alone_and_scores_are_zero_there() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    layout = module_layout(module)
    live = np.ones(layout.num_parameters, np.bool_)
    live[25:40] = live[:10] = False
    swap = Question(kind="gradient", form="mask", at=1.0, swap=0.5)
    request = request_for(module, live=live, question=swap, frozen=("0.weight", "0.bias"))
    proposal = train(module, classes(12), request, task=CLASSIFY).proposal
    assert proposal is not None
    assert np.array_equal(proposal[:30], live[:30])
    snip = request_for(module, question=Question(kind="snip"), frozen=("0.weight", "0.bias"))
    scores = train(module, classes(12), snip, task=CLASSIFY).scores
    assert scores is not None
    assert not scores[:30].any()
    assert scores[30:].any()


def test_a_request_keeps_the_names_on_the_pipe() -> None:
    request = request_for(net(), frozen=("0.weight",))
    assert TrainRequest.from_wire(request.to_wire()).frozen == ("0.weight",)
    assert TrainRequest.from_wire(request_for(net()).to_wire()).frozen == ()


def test_a_model_that_is_frozen_whole_is_refused_with_a_sentence() -> None:
    module = net()
    names = tuple(spec.name for spec in module_layout(module).tensors)
    with pytest.raises(TaskError, match="does not depend on the model's parameters"):
        train(module, classes(12), request_for(module, frozen=names), task=CLASSIFY)
