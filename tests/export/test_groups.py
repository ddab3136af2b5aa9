"""Which channels hang together is known exactly; what is not understood is frozen and named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import ChannelError, channel_groups

SIZES = {
    "plain": {"conv1.weight": 6, "conv2.weight": 8, "fc1.weight": 16},
    "resnet": {"stem.0.weight": 6, "conv1.0.weight": 6, "shortcut.0.weight": 8, "conv3.0.weight": 8},
    "densenet": {"stem.weight": 6, "conv1.weight": 4, "conv2.weight": 4, "transition.weight": 6},
    "squeeze-excite": {"stem.0.weight": 8, "squeeze.weight": 4, "linear1.weight": 4},
    "mobilenet": {"stem.0.weight": 6, "expand.0.weight": 12, "head.0.weight": 10},
    "shufflenet": {
        "stem.0.weight": 3,
        "stem.0.weight:1": 6,
        "conv1.0.weight": 6,
        "grouped1.0.weight": 3,
        "grouped2.0.weight": 6,
    },
    "split": {"stem.weight": 4, "stem.weight:1": 8, "part.weight": 8, "join.weight": 5},
    "vit": {"q.weight": 3, "up.weight": 20},
    "vit packed": {"qkv.weight": 3, "up.weight": 20},
    "encoder": {"layer.self_attn.in_proj_weight": 2, "layer.linear1.weight": 12},
    "inception": {
        "stem.0.weight": 6,
        "a.0.weight": 4,
        "b1.0.weight": 3,
        "b2.0.weight": 5,
        "c.0.weight": 3,
        "d.weight": 4,
        "e.weight": 4,
    },
    "unet": {
        "down1.0.weight": 4,
        "down2.0.weight": 6,
        "deep.0.weight": 8,
        "up2.weight": 6,
        "mix2.0.weight": 5,
        "mix1.0.weight": 4,
    },
    "resnext": {"stem.weight": 4, "reduce.0.weight": 6},
    "wave": {"conv1.weight": 6, "conv2.weight": 6, "gru.weight_ih_l0": 5, "lstm.weight_ih_l0": 4},
    "steps": {"gru.weight_ih_l0": 6, "gru.weight_ih_l1": 6, "lstm.weight_ih_l0": 4},
}


@pytest.mark.parametrize("architecture", list(SIZES), indirect=True)
def test_groups_and_their_sizes(architecture, request):
    name = request.node.callspec.params["architecture"]
    assert {group.id: group.size for group in channel_groups(architecture.template)} == SIZES[name]


def members(groups, key):
    return {(m.tensor, m.axis): (m.role, m.indices.tolist()) for m in groups[key].members}


def test_members_of_a_flattened_convolution(build):
    found = members(channel_groups(build("plain").template), "conv2.weight")
    assert found == {
        ("conv2.weight", 0): ("out", [[j] for j in range(8)]),
        ("conv2.bias", 0): ("along", [[j] for j in range(8)]),
        ("fc1.weight", 1): ("in", [[4 * j, 4 * j + 1, 4 * j + 2, 4 * j + 3] for j in range(8)]),
    }


def test_members_behind_a_join_are_shifted(build):
    found = members(channel_groups(build("densenet").template), "conv1.weight")
    assert found["conv1.weight", 0] == ("out", [[0], [1], [2], [3]])
    assert found["norm2.running_var", 0] == ("along", [[6], [7], [8], [9]])
    assert found["transition.weight", 1] == ("in", [[6], [7], [8], [9]])


def test_heads_go_as_a_whole(build):
    found = members(channel_groups(build("vit packed").template), "qkv.weight")
    rows = [[part * 12 + head * 4 + i for part in range(3) for i in range(4)] for head in range(3)]
    assert found == {
        ("qkv.weight", 0): ("out", rows),
        ("qkv.bias", 0): ("along", rows),
        ("out.weight", 1): ("in", [[head * 4 + i for i in range(4)] for head in range(3)]),
    }


def test_all_tensors_of_a_residual_stream_go_together(build):
    found = members(channel_groups(build("resnet").template), "stem.0.weight")
    assert {key for key, (role, _) in found.items() if role == "out"} == {
        ("stem.0.weight", 0),
        ("conv2.0.weight", 0),
    }
    assert {key for key, (role, _) in found.items() if role == "in"} == {
        ("conv1.0.weight", 1),
        ("conv3.0.weight", 1),
        ("shortcut.0.weight", 1),
    }


def test_frozen_channels_say_why(build):
    frozen = {(f.tensor, f.axis): f for f in channel_groups(build("vit").template).frozen}
    assert frozen["patches.weight", 1].reason == "the model's input"
    assert frozen["head.bias", 0].reason == "the model's output"
    assert frozen["out.weight", 0].reason.startswith("LayerNormalization")
    assert frozen["out.weight", 0].count == 12
    assert frozen["positions", 2].count == 12


def test_rows_of_a_member(build):
    plain = build("plain")
    groups = channel_groups(plain.template)
    weight = plain.layout.split(plain.flat())["fc1.weight"]
    (member,) = (m for m in groups["conv2.weight"].members if m.role == "in")
    assert member.rows(weight).shape == (8, 4 * 16)
    assert sorted(member.rows(weight)[2]) == sorted(weight[:, 8:12].reshape(-1))


def test_live_parameters_of_a_mask(build):
    plain = build("plain")
    groups = channel_groups(plain.template)
    keep = np.array([True, False, True, True, True, False])
    live = plain.layout.split(groups.live(plain.layout, {"conv1.weight": keep}).astype(np.float32))
    assert np.array_equal(live["conv1.weight"].min(axis=(1, 2, 3)), keep)
    assert np.array_equal(live["conv1.bias"], keep)
    assert np.array_equal(live["conv2.weight"].min(axis=(0, 2, 3)), keep)
    assert live["conv2.bias"].all()
    assert live["fc1.weight"].all()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"conv9.weight": np.ones(6, bool)}, "no channel group 'conv9.weight'"),
        ({"conv1.weight": np.ones(5, bool)}, "shape (6,), got bool of shape (5,)"),
        ({"conv1.weight": np.ones(6)}, "got float64"),
        ({"conv1.weight": np.zeros(6, bool)}, "at least one"),
    ],
)
def test_wrong_masks_are_refused(build, keep, words):
    with pytest.raises(ChannelError) as caught:
        channel_groups(build("plain").template).check(keep)
    assert words in str(caught.value)


def test_the_same_template_gives_the_same_groups(build):
    first, second = (channel_groups(build("shufflenet").template) for _ in range(2))
    assert [group.id for group in first] == [group.id for group in second]
    for one, two in zip(first, second, strict=True):
        assert [(m.tensor, m.axis, m.indices.tolist()) for m in one.members] == [
            (m.tensor, m.axis, m.indices.tolist()) for m in two.members
        ]


def small(*nodes, domain=""):
    """Return a model of two convolutions with nodes between "a" and "b"."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 1, 1)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.standard_normal((2, 4, 1, 1)).astype(np.float32), "w2"),
        numpy_helper.from_array(np.ones((4, 4), np.float32), "square"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w1"], ["a"]), *nodes, helper.make_node("Conv", ["b", "w2"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        weights,
    )
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_an_unknown_operator_freezes_its_channels_and_is_named():
    model = small(helper.make_node("Wobble", ["a"], ["b"], domain="acme"), domain="acme")
    found = channel_groups(model)
    assert len(found) == 0
    reasons = {f.tensor: f.reason for f in found.frozen if f.axis == 0}
    assert reasons["w1"] == "operator acme.Wobble is not known here (b)"


def test_a_foreign_model_has_groups_of_all_its_weights():
    found = channel_groups(small(helper.make_node("Relu", ["a"], ["b"])).SerializeToString())
    assert {group.id: [m.tensor for m in group.members] for group in found} == {"w1": ["w1", "w2"]}


def test_a_subgraph_freezes_what_it_reads_from_outside():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["inner"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node("If", ["yes"], ["b"], then_branch=inner, else_branch=inner)
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), "yes"))
    found = channel_groups(small(yes, choice))
    assert len(found) == 0
    assert any("operator If" in f.reason for f in found.frozen if f.tensor == "w1")


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Softmax", ["a"], ["b"], axis=1)],
        [helper.make_node("CumSum", ["a", "one"], ["b"])],
        [helper.make_node("LRN", ["a"], ["b"], size=3)],
        [
            helper.make_node("ReduceMean", ["a", "one"], ["m"]),
            helper.make_node("Sub", ["a", "m"], ["b"]),
        ],
        [
            helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["square", "t"], ["b"]),
        ],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_operators_that_mix_channels_freeze_them(nodes):
    model = small(*nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    assert [group.id for group in channel_groups(model)] == []


def test_a_weight_that_is_used_twice_follows_both_uses():
    """The second use of the same kernel is on other channels: rows and columns become one thing."""
    model = small(helper.make_node("Conv", ["a", "k"], ["b"]))
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "k"),
    )
    assert {g.id: len(g.members) for g in channel_groups(model)} == {"w1": 2, "k": 2}
    twice = small(helper.make_node("Conv", ["a", "k"], ["c"]), helper.make_node("Conv", ["c", "k"], ["b"]))
    twice.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "k"))
    assert {g.id: len(g.members) for g in channel_groups(twice)} == {"w1": 4}


def test_no_weights_are_copied_into_the_shapes_of_a_large_model(monkeypatch):
    """Shape inference sees the graph only; 40 MB of weights would be serialised for it each time."""
    seen = []
    infer = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda m, **k: seen.append(m.ByteSize()) or infer(m, **k)
    )
    model = small(helper.make_node("Conv", ["a", "k"], ["b"], group=1, pads=[450, 450, 450, 450]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4, 901, 901), np.float32), "k"))
    channel_groups(model)
    assert seen
    assert max(seen) < 10_000
