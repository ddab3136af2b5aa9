"""Broken, foreign and mutilated graphs end in an error of ours, or in groups: never in anything else."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import (
    ExportError,
    ModelError,
    Runner,
    channel_groups,
    compact_model,
    count_costs,
    make_sparse,
    quantize_int8,
    shrink_model,
)

OPERATORS = (
    "Relu Add Split Concat Reshape Transpose Gather Slice Pad Softmax MatMul Gemm Conv Squeeze Unsqueeze "
    "ReduceMean Expand Tile Resize Shape InstanceNormalization LayerNormalization GRU DepthToSpace "
    "BatchNormalization ConvTranspose Flatten Wobble ArgMax"
)


def mutilate(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Break one thing in a graph."""
    node = rng.choice(graph.node)
    match rng.randrange(7):
        case 0:
            node.op_type = rng.choice(OPERATORS.split())
        case 1 if node.attribute:
            node.attribute.remove(rng.choice(list(node.attribute)))
        case 2 if node.input:
            del node.input[rng.randrange(len(node.input))]
        case 3:
            node.input.append(rng.choice([name for other in graph.node for name in other.output]))
        case 4 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(graph.initializer).name
        case 5:
            for attribute in node.attribute:
                attribute.i = rng.randint(-5, 5)
                if attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.randint(-5, 9)
        case _:
            graph.initializer.remove(rng.choice(list(graph.initializer)))


@pytest.mark.parametrize("name", ["plain", "shufflenet", "vit packed", "densenet"])
def test_mutilated_graphs(build, name):
    rng = random.Random(name)
    outcomes = {"groups": 0, "refused": 0}
    for _ in range(80):
        model = onnx.load_model_from_string(build(name).template)
        for _ in range(rng.randint(1, 3)):
            mutilate(model.graph, rng)
        del model.metadata_props[rng.choice([0, 1]) :]
        data = model.SerializeToString()
        try:
            found = channel_groups(data)
            shrink_model(data, {group.id: np.arange(group.size) < 1 for group in found})
            outcomes["groups"] += 1
        except ExportError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) >= 3


@pytest.mark.parametrize("call", [channel_groups, compact_model, count_costs, make_sparse])
@pytest.mark.parametrize(
    "data",
    [b"", b"hello" * 30, bytes(4000), b"\x08\x0a" + b"\xff" * 200],
    ids=["empty", "text", "zeros", "cut"],
)
def test_no_model_at_all(call, data):
    with pytest.raises(ModelError):
        call(data)


@pytest.mark.parametrize("call", [channel_groups, compact_model, make_sparse])
def test_every_prefix_of_a_model_is_refused(build, call):
    """A cut model is no model; the seal at its end is gone as well."""
    template = build("plain").template
    for length in range(1, len(template) - 60, 173):
        with pytest.raises(ModelError):
            call(template[:length])


def test_a_flipped_bit_is_found_by_the_seal(build):
    template = bytearray(build("plain").template)
    template[3000] ^= 1
    with pytest.raises(ModelError, match="damaged"):
        channel_groups(bytes(template))


def foreign(*nodes, inputs=("batch", 3, "height", "width"), rank=4, weights=()):
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()


def test_sizes_that_are_not_known_freeze_channels_and_name_the_value():
    rng = np.random.default_rng(0)
    model = foreign(
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
        weights=[("w1", rng.standard_normal((8, 3, 3, 3))), ("w2", rng.standard_normal((2, 8, 3, 3)))],
    )
    found = channel_groups(model)
    assert len(found) == 0
    assert {f.reason for f in found.frozen if f.tensor == "w1"} == {"the shape of 'a' is not known"}


def test_weights_in_constant_nodes_are_left_alone(build):
    """As some exporters write them; small ones become initialisers when shapes are folded."""
    kernel = np.random.default_rng(0).standard_normal((40, 3, 3, 3)).astype(np.float32)
    model = foreign(
        helper.make_node("Constant", [], ["w1"], value=numpy_helper.from_array(kernel, "w1")),
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["y"]),
        inputs=("batch", 3, 8, 8),
        weights=[("w2", np.ones((2, 40, 1, 1)))],
    )
    assert len(channel_groups(model)) == 0
    inputs = np.ones((2, 3, 8, 8), np.float32)
    assert np.array_equal(Runner(shrink_model(model, {}))(inputs), Runner(model)(inputs))


def test_a_foreign_model_is_shrunk_and_quantised():
    rng = np.random.default_rng(0)
    model = foreign(
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w2"], ["y"], transB=1),
        inputs=("batch", 3, 8, 8),
        rank=2,
        weights=[
            ("w1", rng.standard_normal((8, 3, 3, 3))),
            ("b1", rng.standard_normal(8)),
            ("w2", rng.standard_normal((4, 8))),
        ],
    )
    inputs = rng.standard_normal((20, 3, 8, 8)).astype(np.float32)
    small = shrink_model(model, {"w1": np.arange(8) % 2 == 0})
    assert {t.name: tuple(t.dims) for t in onnx.load_model_from_string(small).graph.initializer} == {
        "w1": (4, 3, 3, 3),
        "b1": (4,),
        "w2": (4, 4),
    }
    made = quantize_int8(small, inputs)
    assert np.abs(Runner(made.model)(inputs) - Runner(small)(inputs)).max() < 0.1
