import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import ModelError, Runner


def model(shape, dtype=TensorProto.FLOAT, *, op="Identity", out_shape=None, inputs=("input",)) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["output"])],
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info("output", dtype, shape if out_shape is None else out_shape)],
    )
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 600])
def test_any_number_of_rows_comes_back_in_order(rows):
    inputs = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    assert np.array_equal(Runner(model(["n", 2]))(inputs), inputs)


def test_batches_hold_at_most_256_rows():
    pieces = Runner(model(["n", 2])).batches(np.zeros((600, 2), np.float32))
    assert [len(piece) for piece in pieces] == [256, 256, 88]


@pytest.mark.parametrize("rows", [1, 4, 6, 9])
def test_models_own_batch_is_kept_and_the_last_one_filled_up(rows):
    inputs = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    assert np.array_equal(Runner(model([4, 2]))(inputs), inputs)


@pytest.mark.parametrize("shape", [(2,), (3, 5), (3, 2, 1), (3, 0)])
def test_wrong_shape_names_both_shapes(shape):
    with pytest.raises(ModelError) as caught:
        Runner(model(["n", 2]))(np.zeros(shape, np.float32))
    assert "takes inputs of shape (any, 2)" in str(caught.value)
    assert f"got {shape}" in str(caught.value)


def test_no_rows_are_refused():
    with pytest.raises(ModelError, match="batch of 0"):
        Runner(model(["n", 2]))(np.zeros((0, 2), np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, np.bool_])
def test_numbers_become_what_the_model_takes(dtype):
    outputs = Runner(model(["n", 2]))(np.ones((1, 2), dtype))
    assert outputs.dtype == np.float32
    assert outputs.tolist() == [[1, 1]]


def test_floats_are_no_indices():
    runner = Runner(model(["n"], TensorProto.INT64))
    assert runner(np.array([3], np.int32)).tolist() == [3]
    with pytest.raises(ModelError, match="takes int64 and got float32"):
        runner(np.array([3], np.float32))


def test_lists_are_inputs_too():
    assert Runner(model(["n", 2]))([[1, 2]]).tolist() == [[1, 2]]


def test_dimension_without_a_size_takes_any():
    runner = Runner(model(["n", "t", 2]))
    assert runner.input.describe() == "(any, any, 2)"
    assert runner(np.zeros((3, 7, 2), np.float32)).shape == (3, 7, 2)


def test_model_with_two_inputs_is_refused():
    with pytest.raises(ModelError, match=r"this one has 2 \('a', 'b'\)"):
        Runner(model(["n"], op="Add", inputs=("a", "b")))


def test_model_with_a_scalar_input_is_refused():
    with pytest.raises(ModelError, match="is a scalar"):
        Runner(model([]))


def test_model_with_a_string_input_is_refused():
    with pytest.raises(ModelError, match=r"tensor\(string\), which is not supported"):
        Runner(model(["n"], TensorProto.STRING))


def test_output_without_the_batch_is_refused():
    runner = Runner(model(["n", 2], op="Transpose", out_shape=[2, "n"]))
    with pytest.raises(ModelError, match=r"first output has shape \(2, 3\) for a batch of 3"):
        runner(np.zeros((3, 2), np.float32))


def test_model_that_fails_while_it_runs_is_a_sentence():
    index = numpy_helper.from_array(np.zeros((1, 3), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input"], ["output"], axis=0)],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3])],
        [index],
    )
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    runner = Runner(made.SerializeToString())
    assert runner(np.array([0])).shape == (1, 3)
    with pytest.raises(ModelError, match=r"The model fails on a batch of 1: .*idx=5") as caught:
        runner(np.array([5]))
    assert "\n" not in str(caught.value)


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Runner(model(["n"]), threads=0)


def test_newer_ir_than_onnxruntime_knows_is_a_sentence():
    import onnx

    made = onnx.load_model_from_string(model(["n"]))
    made.ir_version = 99
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Runner(made.SerializeToString())
