"""Masks tried on the device, against the same by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import candidate_counts
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


def tried(task: Task, module: nn.Module, *, density: float) -> tuple[np.ndarray, TrainResult]:
    layout = module_layout(module)
    weights = read_parameters(module, layout)
    question = Question(kind="loss", form="trial", batches=3, candidates=2, density=density, seed=7)
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
    first = next(index for index, spec in enumerate(layout.tensors) if spec.name == "0.weight")
    # Only the first tensor is pruned: all candidates have its five weights.
    density = (layout.num_parameters - 7) / layout.num_parameters
    assert {counts[first] for counts in candidate_counts(layout, number=2, density=density, seed=7)} == {5}
    weights, result = tried(task, module, density=density)
    assert np.array_equal(result.weights, weights)
    assert result.scores is not None
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(1)) * 3 + 1
    batches = draw_batches(24, count=3, size=8, seed=5)
    expected = []
    for keep in (5, 5):
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
        ({"kind": "loss", "form": "trial"}, "asks to try 0 masks"),
        ({"kind": "loss", "form": "trial", "candidates": 10**6}, "asks to try 1000000 masks"),
        ({"kind": "loss", "form": "trial", "candidates": "2"}, "with candidates '2'"),
        ({"kind": "gradient", "form": "trial", "candidates": 2}, "not known here"),
        ({"kind": "loss", "form": "trial", "candidates": 2, "seed": -1}, "has the seed -1"),
        ({"kind": "gradient", "blocks": -1}, "block 0 of -1"),
        ({"kind": "gradient", "top": 1}, "with top 1"),
        ({"kind": "magnitude", "form": "mask", "density": 0}, "density 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Question.read(asked)


def test_a_density_that_the_model_cannot_have_is_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path, norm=False)
    with pytest.raises(ValueError, match=r"density 0\.1 leaves 3 weights"):
        tried(task, task.model(), density=0.1)


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
