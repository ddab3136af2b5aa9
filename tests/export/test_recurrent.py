"""Hidden units of recurrent layers: what goes with them, and when they must stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import Runner, channel_groups, count_costs, fill_template, shrink_model, template_layout

RNG = np.random.default_rng(0)
HIDDEN, INPUTS, LONG = 5, 3, 200


def draw(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 2).astype(np.float32)


def layer(
    kind: str = "GRU", gates: int = 3, *, more: dict[str, np.ndarray] | None = None, **attributes: Any
) -> bytes:
    """Return a recurrent layer over (batch, steps, 3), and a linear one over its last state."""
    weights = {
        "W": draw(1, gates * HIDDEN, INPUTS),
        "R": draw(1, gates * HIDDEN, HIDDEN),
        "B": draw(1, 2 * gates * HIDDEN),
        "out": draw(HIDDEN, 2),
        "first": np.array([0], np.int64),
        **(more or {}),
    }
    inputs = [
        "turned",
        "W",
        "R",
        "B",
        *(name if name in weights else "" for name in ("lens", "h0", "c0", "P")),
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node(
            kind, inputs[: 8 if kind == "LSTM" else 6], ["", "h"], hidden_size=HIDDEN, **attributes
        ),
        helper.make_node("Squeeze", ["h", "first"], ["last"]),
        helper.make_node("MatMul", ["last", "out"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", LONG, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def zeroed(model: bytes, keep: dict[str, np.ndarray]) -> bytes:
    """Return a model with the weights of units that are not kept at zero."""
    import onnx

    made = onnx.load_model_from_string(model)
    groups = channel_groups(model)
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        for key, mask in keep.items():
            for member in groups[key].members:
                if member.tensor == tensor.name:
                    np.moveaxis(value, member.axis, 0)[member.indices[~mask].reshape(-1)] = 0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "gates", "attributes"),
    [("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}), ("LSTM", 4, {}), ("RNN", 1, {})],
)
def test_units_at_zero_are_no_units_over_many_steps(
    kind: str, gates: int, attributes: dict[str, int]
) -> None:
    model = layer(kind, gates, **attributes)
    (group,) = channel_groups(model).groups
    assert (group.id, group.size) == ("W", HIDDEN)
    blocks = {(member.tensor, member.axis): (member.block, member.role) for member in group.members}
    assert blocks == {
        ("W", 1): (gates, "out"),
        ("R", 1): (gates, "out"),
        ("R", 2): (1, "in"),
        ("B", 1): (2 * gates, "along"),
        ("out", 0): (1, "in"),
    }
    rows = RNG.standard_normal((4, LONG, INPUTS)).astype(np.float32)
    for kept in ([0], [1, 4], [0, 2, 3], [0, 1, 2, 3]):
        keep = {"W": np.isin(np.arange(HIDDEN), kept)}
        small = shrink_model(model, keep)
        wanted = Runner(zeroed(model, keep))(rows)
        assert np.abs(wanted).max() > 1e-3
        assert np.abs(Runner(small)(rows) - wanted).max() < 1e-6
        assert count_costs(small).parameters < count_costs(model).parameters


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: layer(more={"h0": draw(1, 1, HIDDEN)}), "begins with a state that is not zero"),
        (lambda: layer("LSTM", 4, more={"P": draw(1, 3 * HIDDEN)}), "has peepholes"),
        (lambda: layer(activations=["Sigmoid", "Relu"]), "has activations or a form of its own"),
        (lambda: layer("RNN", 1, activations=["Relu"]), "has activations or a form of its own"),
        (lambda: layer(clip=1.0), "has activations or a form of its own"),
    ],
)
def test_what_is_not_understood_keeps_its_units_and_says_why(model: Callable[[], bytes], reason: str) -> None:
    found = channel_groups(model())
    assert [group.id for group in found.groups] == []
    assert any(reason in entry.reason for entry in found.frozen if entry.tensor == "R")


def test_states_that_begin_with_zeros_are_left_out_when_units_go() -> None:
    model = layer(more={"h0": np.zeros((1, 4, HIDDEN), np.float32)})
    keep = {"W": np.arange(HIDDEN) < 2}
    rows = RNG.standard_normal((4, LONG, INPUTS)).astype(np.float32)
    small = shrink_model(model, keep)
    assert np.abs(Runner(small)(rows) - Runner(zeroed(model, keep))(rows)).max() < 1e-6


def test_both_directions_go_together(build: Callable[[str], Any]) -> None:
    groups = channel_groups(build("steps").template)
    held = {(member.tensor, member.axis): member.block for member in groups["gru.weight_ih_l0"].members}
    assert held["gru.weight_ih_l0", 0] == held["gru.weight_hh_l0_reverse", 0] == 3
    assert held["gru.weight_hh_l0", 1] == 1
    assert held["gru.weight_ih_l1", 1] == held["gru.weight_ih_l1_reverse", 1] == 2
    layout = template_layout(build("steps").template)
    flat = np.ones(layout.num_parameters, np.float32)
    small = shrink_model(
        fill_template(build("steps").template, flat, layout=layout), {"gru.weight_ih_l1": np.arange(6) < 2}
    )
    shapes = {spec.name: spec.shape for spec in template_layout(small).tensors}
    assert shapes["gru.weight_hh_l1_reverse"] == (6, 2)
    assert shapes["lstm.weight_ih_l0"] == (16, 4)
    assert shapes["gru.weight_hh_l0"] == (18, 6)


def test_weights_that_are_cut_for_another_operator_stay() -> None:
    weights = {"w": draw(8, 4), "a": np.array([0], np.int64), "b": np.array([4], np.int64)}
    nodes = [
        helper.make_node("Slice", ["w", "a", "b", "a"], ["half"]),
        helper.make_node("MatMul", ["x", "half"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "half"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = channel_groups(model.SerializeToString())
    assert len(found) == 0
    assert any("cut and joined" in entry.reason for entry in found.frozen)
