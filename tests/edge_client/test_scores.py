"""Scores on the device, each against its formula written out for a net that is small enough."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.information import mutual_information
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.proposals import propose
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.requests import TrainRequest, TrainResult
from hedgerow_edge_client.scores import Bench, draw_batches, score
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.training import train

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))

def load_data(folder, client):
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[:, :3].argmax(dim=1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return load_task(path)


def bench_of(task: Task, *, batches: int = 2, size: int = 8, module: nn.Module | None = None) -> Bench:
    torch.manual_seed(5)
    module = task.model() if module is None else module
    samples = task.samples(None, client="a")
    return Bench(
        module=module,
        samples=samples,
        task=task,
        layout=module_layout(module),
        batches=draw_batches(len(samples), count=batches, size=size, seed=3),
    )


def gradients(bench: Bench, batch: list[int]) -> np.ndarray:
    """The flat gradient of a batch's loss, by backward()."""
    bench.module.zero_grad()
    inputs, targets = bench.samples.batch(batch)
    nn.functional.cross_entropy(bench.module(inputs), targets).backward()
    flat = [p.grad.numpy().reshape(-1).copy() for p in bench.module.parameters() if p.grad is not None]
    bench.module.zero_grad()
    return np.concatenate(flat)


def test_the_formulas_of_first_order(task: Task) -> None:
    bench = bench_of(task)
    weights = read_parameters(bench.module, bench.layout)
    by_batch = np.stack([gradients(bench, batch) for batch in bench.batches])
    expected = {
        "gradient": by_batch.mean(axis=0),
        "squared-gradient": (by_batch**2).mean(axis=0),
        "snip": by_batch.mean(axis=0) * weights,
        "taylor": ((by_batch * weights) ** 2).mean(axis=0),
    }
    for kind, values in expected.items():
        found = score(Question(kind=kind, batches=2), bench)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, values, rtol=2e-5, atol=1e-7, err_msg=kind)


def test_fisher_is_of_single_samples(task: Task) -> None:
    bench = bench_of(task)
    weights = read_parameters(bench.module, bench.layout)
    rows = [[index] for batch in bench.batches for index in batch]
    squares = np.stack([gradients(bench, row) ** 2 for row in rows])
    found = score(Question(kind="fisher"), bench)
    np.testing.assert_allclose(found, weights**2 * squares.mean(axis=0) / 2, rtol=2e-5, atol=1e-9)


def test_grasp_is_the_curvature_along_the_gradient(task: Task) -> None:
    bench = bench_of(task)
    weights = read_parameters(bench.module, bench.layout)
    parameters = list(bench.module.parameters())

    def mean_gradient() -> np.ndarray:
        return np.stack([gradients(bench, batch) for batch in bench.batches]).mean(axis=0)

    gradient = mean_gradient()
    found = score(Question(kind="grasp"), bench)
    # H g by a difference of gradients, in double precision.
    bench.module.double()
    step, moved = 1e-4, []
    for sign in (1, -1):
        flat = torch.from_numpy(weights.astype(np.float64) + sign * step * gradient)
        with torch.no_grad():
            start = 0
            for parameter in parameters:
                parameter.copy_(flat[start : start + parameter.numel()].reshape(parameter.shape))
                start += parameter.numel()
        total = np.zeros_like(gradient, np.float64)
        for batch in bench.batches:
            bench.module.zero_grad()
            inputs, targets = bench.samples.batch(batch)
            nn.functional.cross_entropy(bench.module(inputs.double()), targets).backward()
            total += np.concatenate([p.grad.numpy().reshape(-1) for p in parameters]) / len(bench.batches)
        moved.append(total)
    curved = (moved[0] - moved[1]) / (2 * step)
    np.testing.assert_allclose(found, weights * curved, rtol=2e-3, atol=2e-6)


def test_mutual_information_in_bits() -> None:
    labels = np.array([0, 1, 2, 3] * 4)
    column = labels.astype(float)
    halves = (labels >= 2).astype(float)
    table = np.stack([column, halves, np.zeros(16), np.arange(16) // 4 * 1.0], axis=1)
    # 4 equal classes are 2 bits; their halves 1; a constant, and what runs across the classes, 0.
    assert mutual_information(table, labels).tolist() == pytest.approx([2, 1, 0, 0], abs=1e-12)


def test_information_scores_know_which_output_tells(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(
        TASK.replace("nn.Linear(4, 5, bias=False)", "nn.Linear(4, 2, bias=False)")
        .replace("nn.Linear(5, 3)", "nn.Linear(2, 3)")
        .replace("inputs[:, :3].argmax(dim=1)", "(inputs[:, 0] > 0).long()")
    )
    task = load_task(path)
    torch.manual_seed(0)
    module = task.model()
    with torch.no_grad():
        # One output is the input that decides the label; the other one is another input.
        module[0].weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 2.0]]))
    bench = bench_of(task, batches=3, module=module)
    found = score(Question(kind="information"), bench)
    first, second = found[0], found[7]
    assert 1.6 < first <= 2.0  # |w| = 2 times one bit, less what the bins mix
    assert second < 0.6 * first
    assert not found[8:].any()  # the classifier and its bias are not pruned


def test_information_scores_need_classes(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK.replace("inputs[:, :3].argmax(dim=1)", "inputs[:, :3]"))
    bench = bench_of(load_task(path))
    with pytest.raises(TaskError, match="need one class for each sample"):
        score(Question(kind="information"), bench)


def test_scoring_leaves_no_trace(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "norm.py"
    path.write_text(TASK.replace("nn.Tanh()", "nn.BatchNorm1d(5), nn.Dropout(0.5)"))
    bench = bench_of(load_task(path))
    before = {name: value.clone() for name, value in bench.module.state_dict().items()}
    state = torch.get_rng_state()
    for kind in ("gradient", "squared-gradient", "snip", "grasp", "fisher", "taylor", "information"):
        found = score(Question(kind=kind), bench)
        assert found.any(), kind
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in bench.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batches_are_drawn_by_the_seed() -> None:
    assert [len(batch) for batch in draw_batches(10, count=9, size=4, seed=1)] == [4, 4, 2]
    assert draw_batches(10, count=2, size=4, seed=1) == draw_batches(10, count=3, size=4, seed=1)[:2]
    assert draw_batches(10, count=1, size=4, seed=1) != draw_batches(10, count=1, size=4, seed=2)
    assert [len(batch) for batch in draw_batches(5, count=9, size=4, seed=1)] == [4]
    assert [len(batch) for batch in draw_batches(1, count=1, size=4, seed=1)] == [1]


def test_a_proposal_swaps_the_weakest_for_the_strongest(task: Task) -> None:
    layout = module_layout(task.model())
    weights = np.zeros(layout.num_parameters, np.float32)
    live = np.ones(layout.num_parameters, np.bool_)
    live[10:20] = False
    weights[:10] = [5, -1, 4, -3, 2, 9, 8, 7, 6, -0.5]
    growth = np.zeros_like(weights)
    growth[:10], growth[12], growth[17], growth[13] = 99, -3, 2, 1
    proposed = propose(weights, growth, live=live, layout=layout, swap=0.25)
    assert np.flatnonzero(live & ~proposed).tolist() == [1, 9]
    assert np.flatnonzero(proposed & ~live).tolist() == [12, 17]
    name = layout.tensors[0].name
    assert np.array_equal(propose(weights, growth, live=live, layout=layout, swap=0.25, protect=[name]), live)


def request(task: Task, question: Question | None, **options: object) -> TrainRequest:
    module = task.model()
    layout = module_layout(module)
    live = np.ones(layout.num_parameters, np.bool_)
    live[::3] = False
    live |= ~layout.prunable()
    torch.manual_seed(2)
    weights = np.where(live, read_parameters(task.model(), layout), 0).astype(np.float32)
    values = {"round": 1, "seed": 4, "epochs": 2, "batch_size": 8, "learning_rate": 0.1, **options}
    return TrainRequest(weights=weights, live=live, question=question, **values)  # type: ignore[arg-type]


def run(task: Task, question: Question | None, **options: object) -> tuple[TrainRequest, TrainResult]:
    wanted = TrainRequest.from_wire(request(task, question, **options).to_wire())
    result = train(task.model(), task.samples(None, client="a"), wanted, task=task)
    return wanted, TrainResult.from_wire(result.to_wire())


def test_scores_are_of_the_weights_before_training_and_change_nothing(task: Task) -> None:
    _, plain = run(task, None)
    wanted, asked = run(task, Question(kind="snip"))
    assert plain.scores is None
    assert plain.proposal is None
    assert np.array_equal(plain.weights, asked.weights)
    assert asked.scores is not None
    # Of the first batch, at the first weights; nothing where they are pruned.
    assert not asked.scores[~wanted.live].any()
    assert asked.scores.any()


@pytest.mark.parametrize("kind", ["gradient", "random"])
def test_a_mask_is_proposed_at_the_end(task: Task, kind: str) -> None:
    wanted, result = run(task, Question(kind=kind, form="mask", at=1.0, swap=0.5))
    _, plain = run(task, None)
    assert result.proposal is not None
    kept = result.proposal & wanted.live
    assert np.array_equal(result.weights[kept], plain.weights[kept])
    assert not result.weights[~kept].any()
    grown = result.proposal & ~wanted.live
    assert np.count_nonzero(grown) == np.count_nonzero(wanted.live & ~result.proposal) == 6


def test_what_grows_early_is_trained(task: Task) -> None:
    wanted, result = run(task, Question(kind="gradient", form="mask", at=0.5, swap=0.5), momentum=0.5)
    assert result.proposal is not None
    grown = result.proposal & ~wanted.live
    assert result.weights[grown].all()
    assert not result.weights[~result.proposal].any()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kind": "wisdom"}, "kind 'wisdom' in form 'values' are not known here; update Hedgerow"),
        ({"kind": "fisher", "form": "mask"}, "not known here"),
        ({"kind": "snip", "batches": 0}, "makes no sense"),
        ({"kind": "snip", "batches": "3"}, "batches '3', which makes no sense"),
        ({"kind": "snip", "at": 0.5}, "before or after training"),
        ({"form": "values"}, "without a kind"),
        ({"kind": "gradient", "form": "mask", "swap": 1.5}, "makes no sense"),
        ({"kind": "gradient", "form": "mask", "protect": [3]}, "makes no sense"),
    ],
)
def test_a_question_that_is_not_understood_is_a_sentence(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Question.read(asked)


def test_unknown_keys_of_a_question_are_ignored() -> None:
    assert Question.read({"kind": "snip", "later": 1}) == Question(kind="snip")
    assert Question.read({}) is None
