"""A model with channels taken out computes what it computed with their weights at zero."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import (
    ChannelError,
    Runner,
    channel_groups,
    compact_model,
    empty_channels,
    fill_template,
    shrink_model,
    template_layout,
    template_parameters,
    verify_model,
)

FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def random_weights(layout, rng, *, positive=False):
    """Return weights with shifts and means of both signs; variances stay positive."""
    parts = {}
    for spec in layout.tensors:
        if len(spec.shape) > 1:
            parts[spec.name] = rng.standard_normal(spec.shape) / np.sqrt(np.prod(spec.shape[1:]))
        elif positive or "running_var" in spec.name:
            parts[spec.name] = rng.uniform(0.5, 1.5, spec.shape)
        else:
            parts[spec.name] = rng.uniform(-1, 1, spec.shape)
    return layout.join(parts)


def random_masks(groups, rng):
    """Return a mask for every group, sparse or dense, that keeps at least one channel."""
    masks = {}
    for group in groups:
        mask = rng.random(group.size) < rng.random()
        mask[rng.integers(group.size)] = True
        masks[group.id] = mask
    return masks


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_the_shrunk_graph_computes_what_the_masked_graph_computes(architecture, seed):
    rng = np.random.default_rng(seed)
    layout, groups = architecture.layout, channel_groups(architecture.template)
    weights = random_weights(layout, rng)
    masks = random_masks(groups, rng)
    masked = fill_template(architecture.template, weights * groups.live(layout, masks), layout=layout)
    shrunk = shrink_model(fill_template(architecture.template, weights, layout=layout), masks)
    inputs = rng.standard_normal(architecture.inputs.shape).astype(np.float32)
    wanted = Runner(masked)(inputs)
    assert np.abs(Runner(shrunk)(inputs) - wanted).max() <= 1e-4
    shapes = {spec.name: list(spec.shape) for spec in layout.tensors}
    for group in groups:
        for member in group.members:
            shapes[member.tensor][member.axis] -= member.indices[~masks[group.id]].size
    assert {spec.name: list(spec.shape) for spec in template_layout(shrunk).tensors} == shapes


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_compact_model_computes_what_the_masked_model_computes(architecture, seed):
    """Unstructured masks that leave rows or columns empty, with biases and shifts of any sign."""
    rng = np.random.default_rng(seed)
    layout = architecture.layout
    weights = random_weights(layout, rng)
    for part in layout.split(weights).values():
        if part.ndim > 1:
            part[rng.random(part.shape) < 0.3] = 0
            part[rng.random(part.shape[0]) < 0.3] = 0
            part[:, rng.random(part.shape[1]) < 0.3] = 0
    model = fill_template(architecture.template, weights, layout=layout)
    inputs = rng.standard_normal(architecture.inputs.shape).astype(np.float32)
    assert np.abs(Runner(compact_model(model))(inputs) - Runner(model)(inputs)).max() <= 1e-4


def test_something_is_really_removed(architecture):
    """Half of every group: tensors shrink, the file too, and the outputs are not those of the whole model."""
    layout, groups = architecture.layout, channel_groups(architecture.template)
    model = fill_template(
        architecture.template, random_weights(layout, np.random.default_rng(5)), layout=layout
    )
    masks = {group.id: np.arange(group.size) < (group.size + 1) // 2 for group in groups}
    shrunk = shrink_model(model, masks)
    small = template_layout(shrunk)
    assert [spec.name for spec in small.tensors] == [spec.name for spec in layout.tensors]
    assert small.num_parameters < 0.95 * layout.num_parameters
    whole = Runner(model)(architecture.inputs)
    part = Runner(shrunk)(architecture.inputs)
    assert part.shape == whole.shape
    assert np.abs(part - whole).max() > 1e-3
    assert verify_model(shrunk, architecture.inputs).ok


def test_sizes_of_the_tensors_that_are_left(build):
    plain = build("plain")
    shrunk = shrink_model(
        plain.template,
        {
            "conv1.weight": np.array([True, False, True, True, True, False]),
            "conv2.weight": np.arange(8) < 3,
        },
    )
    shapes = {spec.name: spec.shape for spec in template_layout(shrunk).tensors}
    assert shapes == {
        "conv1.weight": (4, 3, 3, 3),
        "conv1.bias": (4,),
        "conv2.weight": (3, 4, 3, 3),
        "conv2.bias": (3,),
        "fc1.weight": (16, 12),
        "fc1.bias": (16,),
        "fc2.weight": (5, 16),
        "fc2.bias": (5,),
    }


def test_the_right_values_are_left(build):
    plain = build("plain")
    keep = np.array([True, False, True, True, True, False])
    shrunk = shrink_model(plain.template, {"conv1.weight": keep})
    before = plain.layout.split(plain.flat())
    after = template_layout(shrunk).split(template_parameters(shrunk))
    assert np.array_equal(after["conv1.weight"], before["conv1.weight"][keep])
    assert np.array_equal(after["conv2.weight"], before["conv2.weight"][:, keep])


def test_depthwise_groups_are_counted_anew(build):
    shrunk = onnx.load_model_from_string(
        shrink_model(build("mobilenet").template, {"expand.0.weight": np.arange(12) < 7})
    )
    groups = {
        attribute.i for node in shrunk.graph.node for attribute in node.attribute if attribute.name == "group"
    }
    assert groups == {1, 7, 6}


def test_nothing_to_remove_changes_no_outputs(architecture):
    model = shrink_model(architecture.template, {})
    got = Runner(model)(architecture.inputs)
    assert np.array_equal(got, Runner(architecture.template)(architecture.inputs))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_batch_stays_dynamic(build, rows):
    vit = build("vit packed")
    model = shrink_model(vit.template, {"qkv.weight": np.array([True, False, True])})
    assert len(Runner(model)(np.resize(vit.inputs, (rows, *vit.inputs.shape[1:])))) == rows


def test_shrinking_twice_is_shrinking_once(build):
    plain = build("plain")
    once = shrink_model(plain.template, {"conv2.weight": np.arange(8) < 3, "fc1.weight": np.arange(16) < 9})
    twice = shrink_model(
        shrink_model(plain.template, {"conv2.weight": np.arange(8) < 3}), {"fc1.weight": np.arange(16) < 9}
    )
    assert np.array_equal(template_parameters(once), template_parameters(twice))


def test_a_wrong_mask_changes_nothing(build):
    with pytest.raises(ChannelError, match="at least one"):
        shrink_model(build("plain").template, {"fc1.weight": np.zeros(16, bool)})


def test_channels_that_nobody_reads_are_found(build):
    plain = build("plain")
    parts = {name: part.copy() for name, part in plain.layout.split(plain.flat()).items()}
    parts["fc2.weight"][:, [2, 5]] = 0
    parts["fc1.weight"][:, 8:12] = 0
    parts["fc1.weight"][:, 0:3] = 0  # three of the four columns of channel 0: it is still read
    found = empty_channels(parts, channel_groups(plain.template))
    assert {key: np.flatnonzero(~mask).tolist() for key, mask in found.items()} == {
        "conv2.weight": [2],
        "fc1.weight": [2, 5],
    }


def test_one_channel_is_always_kept(build):
    plain = build("plain")
    parts = {name: part.copy() for name, part in plain.layout.split(plain.flat()).items()}
    parts["fc2.weight"][:] = 0
    assert empty_channels(parts, channel_groups(plain.template))["fc1.weight"].sum() == 1
    model = compact_model(fill_template(plain.template, plain.layout.join(parts), layout=plain.layout))
    shapes = {spec.name: spec.shape for spec in template_layout(model).tensors}
    assert (shapes["fc1.weight"], shapes["fc2.weight"]) == ((1, 32), (5, 1))
    assert np.allclose(Runner(model)(plain.inputs), parts["fc2.bias"])


def test_a_constant_channel_goes_into_the_next_bias(build):
    """fc1's row 3 is zero: with its positive bias it is a constant that fc2 reads."""
    plain = build("plain")
    parts = {name: part.copy() for name, part in plain.layout.split(plain.flat()).items()}
    parts["fc1.weight"][3] = 0
    parts["fc1.bias"][3] = 2.0
    model = compact_model(fill_template(plain.template, plain.layout.join(parts), layout=plain.layout))
    layout = template_layout(model)
    after = layout.split(template_parameters(model))
    assert after["fc1.weight"].shape == (15, 32)
    assert np.allclose(after["fc2.bias"], parts["fc2.bias"] + 2.0 * parts["fc2.weight"][:, 3])


def test_a_constant_before_padding_stays(build):
    """The border of a padded layer sees less of a constant, so no bias can stand for it; zero can go."""
    resnet = build("resnet")
    parts = {name: part.copy() for name, part in resnet.layout.split(resnet.flat()).items()}
    for name in ("conv1.0.weight", "conv3.0.weight"):
        parts[name][1] = 0
    parts["conv1.1.bias"][1], parts["conv1.1.running_mean"][1] = 1.0, 0.0  # relu(1) is read by conv2
    parts["conv3.1.bias"][1], parts["conv3.1.running_mean"][1] = -1.0, 0.0  # relu(-1) is nothing
    model = fill_template(resnet.template, resnet.layout.join(parts), layout=resnet.layout)
    compact = compact_model(model)
    left = {group.id: group.size for group in channel_groups(compact)}
    assert left["conv1.0.weight"] == 6
    assert left["conv3.0.weight"] == 7
    assert np.allclose(Runner(compact)(resnet.inputs), Runner(model)(resnet.inputs), atol=1e-5)


def test_an_unknown_operator_stays_as_it_is_while_others_shrink():
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (2, 6, 1, 1)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node("CumSum", ["a", "one"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"]),
            helper.make_node("Conv", ["c", "w3"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [
            *(
                numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
                for n, s in shapes.items()
            ),
            numpy_helper.from_array(np.array(1, np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    shrunk = onnx.load_model_from_string(
        shrink_model(model.SerializeToString(), {"w2": np.arange(6) % 2 == 0})
    )
    assert {t.name: tuple(t.dims) for t in shrunk.graph.initializer if t.name != "one"} == {
        "w1": (4, 3, 1, 1),
        "w2": (3, 4, 1, 1),
        "w3": (2, 3, 1, 1),
    }


@pytest.mark.parametrize("name", ["plain", "resnet", "mobilenet", "inception", "unet", "split"])
def test_channels_of_a_structured_mask_are_gone_though_biases_and_classifier_stay(build, name):
    """A mask takes no bias and no norm, and a plan keeps the first and the last layer dense."""
    given = build(name)
    layout, groups = given.layout, channel_groups(given.template)
    rng = np.random.default_rng(1)
    weights = random_weights(layout, rng)
    masks = {group.id: np.arange(group.size) % 2 == 0 for group in groups}
    live = groups.live(layout, masks)
    kept = {spec.name for spec in layout.tensors if len(spec.shape) == 1} | {layout.tensors[0].name}
    head = next(spec.name for spec in reversed(layout.tensors) if len(spec.shape) > 1)
    for spec, start, end in zip(layout.tensors, layout.offsets, layout.offsets[1:], strict=False):
        if spec.name in kept or spec.name == head:
            live[start:end] = True
    model = fill_template(given.template, weights * live, layout=layout)
    compact = compact_model(model)
    assert np.abs(Runner(compact)(given.inputs) - Runner(model)(given.inputs)).max() <= 1e-4
    shapes = {spec.name: list(spec.shape) for spec in layout.tensors}
    for group in groups:
        for member in group.members:
            shapes[member.tensor][member.axis] -= member.indices[~masks[group.id]].size
    assert {spec.name: list(spec.shape) for spec in template_layout(compact).tensors} == shapes
