import math

import numpy as np
import pytest
from onnx import TensorProto, helper

from hedgerow_export import METRICS, Evaluation, MetricError, ModelError, accuracy, evaluate, find_metric


def identity(width: int) -> bytes:
    """Return a model whose outputs are its inputs, so that a test writes the outputs."""
    value = ["n", width]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, value)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, value)],
    )
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(made.SerializeToString())


LOGITS = np.array([[2, 1, 0], [0, 1, 2], [5, 0, 0], [0, 3, 1]], np.float32)


def test_accuracy_and_cross_entropy_by_hand():
    result = evaluate(identity(3), LOGITS, np.array([0, 2, 1, 1]))
    assert (result.metric, result.value, result.num_samples) == ("accuracy", 0.75, 4)
    losses = [
        math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(LOGITS, [0, 2, 1, 1], strict=True)
    ]
    assert result.loss == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    assert evaluate(identity(10), np.zeros((4, 10), np.float32), np.arange(4)).loss == pytest.approx(
        math.log(10)
    )


def test_huge_logits_do_not_overflow():
    result = evaluate(identity(2), np.array([[1e30, 0]], np.float32), np.array([0]))
    assert (result.value, result.loss) == (1.0, 0.0)


def test_a_single_column_is_two_classes():
    result = evaluate(identity(1), np.array([[2.0], [-1.0], [0.0]], np.float32), np.array([1, 1, 0]))
    assert result.value == pytest.approx(2 / 3)
    losses = [math.log1p(math.exp(-2)), math.log1p(math.exp(1)), math.log(2)]
    assert result.loss == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_mse_and_mae_by_hand():
    outputs, targets = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 0], [0, 4]], np.float32)
    assert evaluate(identity(2), outputs, targets, "mse") == Evaluation(
        metric="mse", value=3.25, loss=3.25, num_samples=2
    )
    assert evaluate(identity(2), outputs, targets, "mae").value == 1.25


def test_a_column_of_outputs_meets_a_row_of_targets_one_to_one():
    """(n, 1) minus (n,) must not spread to (n, n)."""
    outputs, targets = np.array([[1], [2], [3]], np.float32), np.array([1, 2, 5], np.float32)
    assert evaluate(identity(1), outputs, targets, "mse").value == pytest.approx(4 / 3)


def test_mean_is_over_samples_not_over_batches():
    inputs = np.tile(np.array([[1, 0]], np.float32), (300, 1))
    targets = np.zeros(300, np.int64)
    targets[256:] = 1
    assert evaluate(identity(2), inputs, targets).value == 256 / 300


def test_memory_map_is_read_in_batches(tmp_path):
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(300, 2))
    rows[:, 0] = 1
    assert evaluate(identity(2), rows, np.zeros(300, np.int64)).value == 1.0


def test_outputs_that_are_no_numbers_are_never_right():
    outputs = np.array([[np.nan, 0], [1, 0]], np.float32)
    result = evaluate(identity(2), outputs, np.array([0, 0]))
    assert result.value == 0.5
    assert math.isnan(result.loss)


@pytest.mark.parametrize(
    ("targets", "metric", "words"),
    [
        (np.zeros(3, np.int64), "accuracy", "4 inputs and 3 targets"),
        (np.array([0, 1, 2, 3]), "accuracy", "go from 0 to 3, but the model tells 3 classes"),
        (np.array([0, 1, 2, -1]), "accuracy", "go from -1 to 2"),
        (np.array([0, 1, 2, 0.5]), "accuracy", "whole numbers"),
        (np.zeros((4, 3)), "accuracy", r"\(4, 3\) and \(4, 3\)"),
        (np.zeros(4), "mse", r"\(4, 3\) and the targets \(4,\)"),
        (np.zeros((4, 3, 1)), "mae", r"\(4, 3, 1\)"),
        (np.zeros(4, np.int64), "acuracy", "did you mean 'accuracy'"),
        (np.zeros(4, np.int64), "zzz", "there are accuracy, mse, mae"),
    ],
)
def test_what_does_not_fit_is_named(targets, metric, words):
    with pytest.raises(MetricError, match=words):
        evaluate(identity(3), LOGITS, targets, metric)


def test_wrong_inputs_are_the_models_sentence():
    with pytest.raises(ModelError, match=r"\(any, 3\) and got \(4, 2\)"):
        evaluate(identity(3), LOGITS[:, :2], np.zeros(4, np.int64))


def test_accuracy_alone():
    assert accuracy(LOGITS, np.array([[0], [2], [1], [1]])) == 0.75
    assert accuracy(np.array([0.1, -0.1]), np.array([1, 1])) == 0.5


def test_registry_says_which_way_is_up():
    assert {name: metric.higher_is_better for name, metric in METRICS.items()} == {
        "accuracy": True,
        "mse": False,
        "mae": False,
    }
    assert all(find_metric(name).name == name for name in METRICS)
