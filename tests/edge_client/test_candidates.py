"""Masks tried on the device, against the same by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.requests import TrainRequest, TrainResult
from hedgerow_edge_client.scores import draw_batches
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.training import train

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(3, 4), {norm} nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))

def load_data(folder, client):
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return inputs, inputs.argmax(dim=1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def task_of(folder: Path, *, norm: bool) -> Task:
    path = folder / "task.py"
    path.write_text(TASK.replace("{norm}", "nn.BatchNorm1d(4)," if norm else ""))
    return load_task(path)


def tried(task: Task, module: nn.Module, counts: list[list[int]]) -> tuple[np.ndarray, TrainResult]:
    layout = module_layout(module)
    weights = read_parameters(module, layout)
    question = Question(kind="loss", form="trial", batches=3, counts=tuple(map(tuple, counts)))
    request = TrainRequest(
        round=1,
        seed=5,
        epochs=2,
        batch_size=8,
        learning_rate=0.1,
        weights=weights,
        live=np.ones(len(weights), np.bool_),
        question=question,
    )
    request = TrainRequest.from_wire(request.to_wire())
    result = train(module, task.samples(None, client="a"), request, task=task)
    return weights, TrainResult.from_wire(result.to_wire())


@pytest.mark.parametrize("norm", [False, True])
def test_losses_are_of_evaluation_with_statistics_of_the_pruned_model(tmp_path: Path, *, norm: bool) -> None:
    task = task_of(tmp_path, norm=norm)
    torch.manual_seed(3)
    module = task.model()
    layout = module_layout(module)
    dense = [spec.size for spec in layout.tensors]
    first = next(index for index, spec in enumerate(layout.tensors) if spec.name == "0.weight")
    thin = [5 if index == first else size for index, size in enumerate(dense)]
    weights, result = tried(task, module, [dense, thin])
    assert np.array_equal(result.weights, weights)
    assert result.scores is not None
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(1)) * 3 + 1
    batches = draw_batches(24, count=3, size=8, seed=5)
    expected = []
    for keep in (12, 5):
        matrix = module.get_parameter("0.weight").detach().clone()
        order = matrix.abs().reshape(-1).argsort(descending=True)
        matrix.reshape(-1)[order[keep:]] = 0
        hidden = inputs @ matrix.T + module.get_parameter("0.bias").detach()
        if norm:
            # Plain means of the batches' means and unbiased variances, all batches of one size.
            parts = torch.stack([hidden[batch] for batch in batches])
            mean, variance = parts.mean(dim=1).mean(dim=0), parts.var(dim=1).mean(dim=0)
            hidden = (hidden - mean) / (variance + 1e-5).sqrt()
        last = module[-1]
        assert isinstance(last, nn.Linear)
        outputs = last(hidden.relu()).detach()
        expected.append(float(nn.functional.cross_entropy(outputs, inputs.argmax(dim=1))))
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)
    assert result.loss == pytest.approx(min(expected), rel=1e-5)
    # The module is what it was.
    np.testing.assert_array_equal(read_parameters(module, layout), weights)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kind": "loss", "form": "trial"}, "try masks in a way that makes no sense"),
        ({"kind": "loss", "form": "trial", "counts": [[1, -2]]}, "try masks in a way that makes no sense"),
        ({"kind": "loss", "form": "trial", "counts": [[1.5]]}, "try masks in a way that makes no sense"),
        ({"kind": "gradient", "counts": [[1]]}, "try masks in a way that makes no sense"),
        ({"kind": "gradient", "form": "trial", "counts": [[1]]}, "not known here"),
        ({"kind": "gradient", "tensors": [1]}, "in a way that makes no sense"),
        ({"kind": "gradient", "top": 1}, "with top 1"),
        ({"kind": "magnitude", "form": "mask", "density": 0}, "density 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Question.read(asked)


def test_counts_of_another_model_are_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path, norm=False)
    with pytest.raises(ValueError, match="2 counts for 4 tensors"):
        tried(task, task.model(), [[1, 2]])


def test_the_strongest_values_alone_are_sent(tmp_path: Path) -> None:
    task = task_of(tmp_path, norm=False)
    module = task.model()
    layout = module_layout(module)
    weights = read_parameters(module, layout)
    live = np.ones(len(weights), np.bool_)
    start = layout.offsets[[spec.name for spec in layout.tensors].index("0.weight")]
    live[start : start + 6] = False
    results = []
    for top in (False, True):
        question = Question(kind="gradient", at=1.0, top=top, swap=0.5, batches=3)
        request = TrainRequest(
            round=1,
            seed=5,
            epochs=1,
            batch_size=8,
            learning_rate=0.1,
            weights=weights,
            live=live,
            question=question,
        )
        results.append(train(module, task.samples(None, client="a"), request, task=task))
    every, strongest = (result.scores for result in results)
    assert every is not None
    assert strongest is not None
    # Half of the six live weights of the tensor: the three largest gradients of the pruned ones.
    named = start + np.argsort(-np.abs(every[start : start + 6]), kind="stable")[:3]
    assert set(np.flatnonzero(strongest)) == set(named)
    np.testing.assert_array_equal(strongest[named], every[named])
