"""Quantised, sparse and shrunk models agree with the float model, or are refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import hedgerow_export.quantizing
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import (
    ExportError,
    Limits,
    ModelError,
    QuantizationError,
    Recipe,
    Runner,
    Sample,
    VerificationError,
    calibration_form,
    compare_outputs,
    count_activations,
    count_costs,
    fill_template,
    find_metric,
    find_target,
    make_product,
    make_sparse,
    make_template,
    measure_latency,
    quantize_int8,
    read_model,
)
from hedgerow_export.int4_weights import pack_int4, quantize_int4_weights


@pytest.fixture(scope="module")
def classifier(build):
    """Return a residual network whose classes lie far apart, its inputs and its own answers."""
    resnet = build("resnet")
    rng = np.random.default_rng(3)
    flat = resnet.flat()
    for name, part in resnet.layout.split(flat).items():
        if name == "head.weight":
            part[...] = rng.standard_normal(part.shape) * 4
    model = fill_template(resnet.template, flat, layout=resnet.layout)
    inputs = rng.standard_normal((200, 3, 8, 8)).astype(np.float32) * 2
    return model, inputs, Runner(model)(inputs).argmax(axis=1)


@pytest.fixture(scope="module")
def wide():
    """Return the template of two wide linear layers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 5)).eval()
    layout = Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(t.shape), kind="other", prunable=t.ndim > 1)
            for name, t in module.state_dict().items()
        )
    )
    inputs = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    return make_template(module, inputs, layout=layout), layout, inputs


def test_int8_is_a_quarter_and_gives_the_same_answers(classifier):
    model, inputs, _ = classifier
    made = quantize_int8(model, inputs)
    assert made.layers == 7
    assert made.spared == ()
    proto = onnx.load_model_from_string(made.model)
    kinds = {node.op_type for node in proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "BatchNormalization" not in kinds
    assert (proto.ir_version, len(proto.graph.value_info)) == (10, 0)
    stored = {t.name: t for t in proto.graph.initializer}
    big = [t for t in stored.values() if np.prod(t.dims) >= 100]
    assert {t.data_type for t in big} == {onnx.TensorProto.INT8}
    scales = [t for name, t in stored.items() if name.endswith("weight_scale")]
    assert any(len(t.dims) == 1 and t.dims[0] == 8 for t in scales)  # one for each output channel
    agreed = (Runner(made.model)(inputs).argmax(axis=1) == Runner(model)(inputs).argmax(axis=1)).mean()
    assert agreed > 0.95


def test_layers_that_suffer_go_back_to_float_worst_first(classifier):
    model, inputs, _ = classifier
    wanted = Runner(model)(inputs)
    whole = quantize_int8(model, inputs)
    error = np.abs(Runner(whole.model)(inputs) - wanted).max()
    tried = []

    def accept(candidate):
        tried.append(float(np.abs(Runner(candidate)(inputs) - wanted).max()))
        return tried[-1] < 0.8 * error

    made = quantize_int8(model, inputs, accept=accept)
    assert 1 <= len(made.spared) < 7
    assert made.layers + len(made.spared) == 7
    assert tried[-1] < 0.8 * tried[0]
    stored = [
        t.data_type for t in onnx.load_model_from_string(made.model).graph.initializer if len(t.dims) > 1
    ]
    assert stored.count(onnx.TensorProto.FLOAT) == len(made.spared)


def test_a_model_that_never_agrees_is_refused(classifier):
    model, inputs, _ = classifier
    with pytest.raises(QuantizationError, match="whichever layers stay in float"):
        quantize_int8(model, inputs, accept=lambda candidate: False)


def test_calibration_of_another_shape_is_refused(classifier):
    with pytest.raises(ModelError, match=r"\(any, 3, 8, 8\)"):
        quantize_int8(classifier[0], np.zeros((4, 3, 9, 9), np.float32))
    with pytest.raises(ModelError, match="at least one input"):
        quantize_int8(classifier[0], np.zeros((0, 3, 8, 8), np.float32))


@pytest.mark.parametrize("name", ["mobilenet", "unet", "vit", "wave", "densenet"])
def test_other_architectures_are_quantised(build, name):
    given = build(name)
    made = quantize_int8(given.template, given.inputs)
    wanted = Runner(given.template)(given.inputs)
    apart = np.sqrt(np.mean((Runner(made.model)(given.inputs) - wanted) ** 2))
    assert apart < 0.1 * np.sqrt(np.mean(wanted**2))


def test_four_bits_are_packed_as_the_operator_reads_them():
    matrix = np.zeros((1, 40), np.float32)
    matrix[0, :4] = [-8.0, 7.0, 1.0, 0.4]
    matrix[0, 33] = 2.0
    packed, scales = pack_int4(matrix)
    assert packed.shape == (1, 2, 16)
    assert packed[0, 0, :3].tolist() == [0 | 15 << 4, 9 | 8 << 4, 8 | 8 << 4]
    assert scales.tolist() == [[1.0, -0.25]]
    assert packed[0, 1, 0] == 8 | 0 << 4


def test_four_bit_weights_are_near_and_small(wide):
    template, _, inputs = wide
    model, layers = quantize_int4_weights(template)
    assert layers == 2
    assert len(model) < 0.45 * len(template)
    wanted = Runner(template)(inputs)
    apart = np.sqrt(np.mean((Runner(model)(inputs) - wanted) ** 2)) / np.sqrt(np.mean(wanted**2))
    assert 0 < apart < 0.15


def test_four_bit_weights_need_a_linear_layer(build):
    with pytest.raises(QuantizationError, match="no linear layer"):
        quantize_int4_weights(build("resnet").template)


def test_sparse_tensors_give_the_same_outputs_in_fewer_bytes(wide):
    template, layout, inputs = wide
    rng = np.random.default_rng(1)
    flat = rng.standard_normal(layout.num_parameters).astype(np.float32)
    for part in layout.split(flat).values():
        if part.ndim > 1:
            part[rng.random(part.shape) < 0.8] = 0
    model = fill_template(template, flat, layout=layout)
    sparse, count = make_sparse(model)
    assert count == 2
    assert len(sparse) < 0.5 * len(model)
    assert np.array_equal(Runner(sparse)(inputs), Runner(model)(inputs))


def test_dense_tensors_are_left_alone(wide):
    assert make_sparse(wide[0]) == (wide[0], 0)


def test_a_product_keeps_the_promise_of_its_table(classifier):
    model, inputs, targets = classifier
    sample = Sample(inputs=inputs, targets=targets, metric=find_metric("accuracy"))
    made = make_product(
        model,
        sample,
        Recipe(quantize="int8", target=find_target("pi5"), limits=Limits(drop_points=5), threads=(1,)),
        metadata={"run": "r", "round": "3"},
    )
    assert made.dense.metric == 1.0
    assert made.made.metric == np.mean(Runner(made.model)(inputs).argmax(axis=1) == targets)
    assert made.agreement.top1_agreement == made.made.metric >= 0.95
    assert (made.dense.file_bytes, made.made.file_bytes) == (len(model), len(made.model))
    assert made.made.latency[0].p50_ms <= made.made.latency[0].p95_ms
    assert made.quantized_layers == 7
    held = Runner(made.model).metadata
    assert float(held.pop("exported_accuracy")) == pytest.approx(made.made.metric)
    assert held == {"run": "r", "round": "3", "quantize": "int8", "target": "pi5", "threads": "3"}


def test_a_quantised_model_that_loses_too_much_is_refused(classifier, monkeypatch):
    model, inputs, targets = classifier
    monkeypatch.setattr(hedgerow_export.quantizing, "CALIBRATION_ROWS", 1)
    sample = Sample(
        inputs=inputs,
        targets=targets,
        metric=find_metric("accuracy"),
        calibration=np.zeros((1, 3, 8, 8), np.float32),  # ranges of nothing: everything is cut off
    )
    with pytest.raises(QuantizationError, match="does not agree"):
        make_product(model, sample, Recipe(quantize="int8"))


def test_four_bits_that_lose_too_much_are_refused(wide):
    template, _, inputs = wide
    sample = Sample(inputs=inputs)
    limits = Limits(top1_agreement=1.0)
    with pytest.raises(VerificationError, match="int4-weights the model does not agree"):
        make_product(template, sample, Recipe(quantize="int4-weights", limits=limits))


def test_made_up_inputs_do_not_do_for_calibration(classifier):
    model, inputs, _ = classifier
    with pytest.raises(ExportError, match="--calibration"):
        make_product(model, Sample(inputs=inputs, real=False), Recipe(quantize="int8"))


def test_an_unknown_kind_and_target_are_refused():
    with pytest.raises(ExportError, match="none, int8, int4-weights"):
        Recipe(quantize="int2")
    with pytest.raises(ExportError, match="did you mean 'pi4'"):
        find_target("pi44")


def test_comparison_by_kind_of_output():
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 25]
    other = logits.copy()
    other[:3] = np.roll(other[:3], 1, axis=1)
    without = compare_outputs(other, logits)
    assert (without.ok, without.top1_agreement) == (False, 0.97)
    assert compare_outputs(other, logits, limits=Limits(top1_agreement=0.97)).ok
    targets = logits.argmax(axis=1)
    judged = compare_outputs(other, logits, targets=targets, metric=find_metric("accuracy"))
    assert (judged.ok, judged.before, judged.after) == (False, 1.0, 0.97)
    assert compare_outputs(
        other, logits, targets=targets, metric=find_metric("accuracy"), limits=Limits(drop_points=3)
    ).ok
    values = np.linspace(1, 2, 50, dtype=np.float32)[:, None]
    assert compare_outputs(values * 1.04, values).ok
    assert not compare_outputs(values * 1.06, values).ok
    measured = compare_outputs(values, values, targets=values + 1, metric=find_metric("mse"))
    assert measured.ok
    assert measured.before == measured.after == pytest.approx(1.0)
    assert not compare_outputs(values + 0.1, values, targets=values - 1, metric=find_metric("mse")).ok
    broken = compare_outputs(values * np.nan, values)
    assert not broken.ok
    assert np.isnan(broken.max_abs_error)


def test_costs_of_known_layers(build):
    plain = count_costs(build("plain").template)
    assert plain.parameters == build("plain").layout.num_parameters
    assert plain.multiply_adds == 6 * 27 * 36 + 8 * 54 * 16 + 32 * 16 + 16 * 5
    wave = count_costs(build("wave").template)
    convolutions = 6 * 3 * 3 * 12 + 6 * 6 * 3 * 14
    recurrent = 7 * 3 * 5 * (6 + 5) + 7 * 4 * 4 * (5 + 4)
    assert wave.multiply_adds == convolutions + recurrent + 4 * 5


def test_latency_is_measured_in_turns(build):
    template = build("plain").template
    found = measure_latency([template, template], build("plain").inputs[:1], seconds=0.05, calls=40)
    assert [latency.calls for latency in found] == [found[0].calls] * 2
    assert 10 <= found[0].calls <= 40
    assert all(0 < latency.p50_ms <= latency.p95_ms for latency in found)


def test_a_sparse_tensor_that_claims_to_be_huge_is_refused(wide, tmp_path):
    template, layout, _ = wide
    flat = np.zeros(layout.num_parameters, np.float32)
    sparse, _ = make_sparse(fill_template(template, flat, layout=layout))
    proto = onnx.load_model_from_string(sparse)
    proto.graph.sparse_initializer[0].dims[:] = [2**40, 2**20]
    del proto.metadata_props[:]
    path = tmp_path / "bomb.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="impossible shape"):
        count_costs(read_model(path))


def test_products_with_four_bits_and_with_sparse_tensors(wide):
    template, layout, inputs = wide
    rng = np.random.default_rng(1)
    flat = rng.standard_normal(layout.num_parameters).astype(np.float32)
    for part in layout.split(flat).values():
        if part.ndim > 1:
            part[rng.random(part.shape) < 0.8] = 0
    model = fill_template(template, flat, layout=layout)
    limits = Limits(top1_agreement=0.7)
    packed = make_product(template, Sample(inputs=inputs), Recipe(quantize="int4-weights", limits=limits))
    assert packed.quantized_layers == 2
    assert packed.made.file_bytes < 0.45 * packed.dense.file_bytes
    assert packed.made.parameters == packed.dense.parameters
    sparse = make_product(model, Sample(inputs=inputs), Recipe(sparse=True))
    assert sparse.sparse_tensors >= 1
    assert (
        sparse.made.parameters < sparse.dense.parameters
    )  # columns without a weight: their channels are gone
    assert sparse.agreement.max_abs_error < 1e-5
    assert sparse.made.file_bytes < 0.5 * sparse.dense.file_bytes
    assert Runner(sparse.model).metadata["quantize"] == "none"


def test_ranges_of_devices_do_for_a_gateway_without_data(classifier):
    model, inputs, answers = classifier
    made_up = np.random.default_rng(9).standard_normal((16, 3, 8, 8)).astype(np.float32)
    sample, recipe = Sample(inputs=made_up, real=False), Recipe(quantize="int8")
    with pytest.raises(ExportError, match=r"--calibration FILE, or --ranges FILE"):
        make_product(model, sample, recipe)
    # The devices count on the float model that was exported.
    float_model = make_product(model, sample, Recipe()).model
    ranges = count_activations(calibration_form(float_model), inputs)
    product = make_product(model, replace(sample, ranges=ranges), recipe)
    assert product.quantized_layers >= 5
    runner = Runner(product.model)
    assert runner.metadata["ranges"] == "of 200 inputs on devices"
    assert np.mean(runner(inputs).argmax(axis=1) == answers) >= 0.95
