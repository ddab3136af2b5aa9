"""Damaged, cut, empty, foreign and ill-matched models: one sentence of ours, never protobuf's traceback."""

import base64
import contextlib
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hedgerow_export.model_proto
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import (
    ExportError,
    MetadataError,
    ModelError,
    Runner,
    TemplateError,
    describe_model,
    fill_template,
    read_model,
    template_layout,
    template_parameters,
    verify_model,
)
from hedgerow_export.seal import SEAL_BYTES, check_seal, seal


def foreign_model(weight: TensorProto | None = None, **info: object) -> onnx.ModelProto:
    """Return ``output = input @ w``, as another tool would write it."""
    weight = weight or numpy_helper.from_array(np.array([[1, 0], [2, 0]], np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "g",
        [
            helper.make_tensor_value_info(
                "input", info.get("dtype", TensorProto.FLOAT), info.get("shape", ["n", 2])
            )
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [info.get("shape", ["n"])[0], 2])],
        [weight],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


FOREIGN = foreign_model().SerializeToString()
GARBAGE = {
    "empty": b"",
    "text": b"hello world",
    "one byte": b"\x08",
    "zip": b"PK\x03\x04" + bytes(60),
    "zeros": bytes(1000),
    "parses as a message of unknown fields": b"\x98\x06\x01",
    "pytorch": b"\x80\x02}q\x00.",
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize(
    "use",
    [
        describe_model,
        template_layout,
        template_parameters,
        Runner,
        lambda data: verify_model(data, np.zeros((1, 2), np.float32)),
        lambda data: fill_template(data, np.zeros(2, np.float32), layout=Layout(tensors=())),
    ],
)
def test_garbage_is_one_sentence(name, use):
    with pytest.raises(ModelError) as caught:
        use(GARBAGE[name])
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_every_truncation_is_noticed(mlp):
    data = mlp.template
    for length in range(0, len(data), 7):
        with pytest.raises(ModelError):
            describe_model(data[:length])


def test_every_flipped_byte_of_a_model_is_noticed(mlp):
    data = bytearray(mlp.template)
    for i in range(len(data) - SEAL_BYTES):
        data[i] ^= 0x10
        with pytest.raises(ModelError, match="damaged"):
            describe_model(bytes(data))
        data[i] ^= 0x10
    assert describe_model(bytes(data))["sealed"]


def test_flipped_seal_never_passes_for_a_sealed_model(mlp):
    data = bytearray(mlp.template)
    for i in range(len(data) - SEAL_BYTES, len(data)):
        data[i] ^= 0x01
        with contextlib.suppress(ModelError):
            assert describe_model(bytes(data))["sealed"] is False
        data[i] ^= 0x01


def test_seal_is_an_onnx_metadata_entry():
    data = seal(FOREIGN)
    assert len(data) == len(FOREIGN) + SEAL_BYTES
    assert check_seal(data)
    assert not check_seal(FOREIGN)
    (entry,) = onnx.load_model_from_string(data).metadata_props
    assert entry.key == "hedgerow.seal"
    assert len(entry.value) == 32
    assert np.array_equal(Runner(data)(np.ones((1, 2), np.float32)), [[3, 0]])


def test_model_saved_anew_by_another_tool_is_still_ours_but_not_sealed(mlp):
    model = onnx.load_model_from_string(mlp.template)
    model.metadata_props.add(key="author", value="somebody")
    data = model.SerializeToString()
    assert describe_model(data)["sealed"] is False
    assert template_layout(data) == mlp.layout


def test_foreign_model_is_refused_and_described_when_asked():
    for use in (describe_model, template_layout, template_parameters):
        with pytest.raises(ModelError, match="was not made by Hedgerow"):
            use(FOREIGN)
    told = describe_model(FOREIGN, foreign=True)
    assert told["layout"] is None
    assert (told["parameters"], told["zeros_share"]) == (4, 0.5)


def test_huge_model_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(ModelError, match="2147483648 bytes"):
        read_model(path)
    monkeypatch.setattr(hedgerow_export.model_proto, "MAX_MODEL_BYTES", 10)
    with pytest.raises(ModelError, match="at most 10"):
        describe_model(FOREIGN)


def test_unreadable_file_is_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="Is a directory"):
        read_model(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"abc")
    assert read_model(tmp_path / "m.onnx") == b"abc"


def test_weights_in_another_file_are_refused():
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelError, match="in another file"):
        describe_model(foreign_model(weight).SerializeToString(), foreign=True)


@pytest.mark.parametrize("dims", [[2, 3], [2**31, 2**31], [-1, 4]])
def test_initialiser_that_lies_about_its_shape_is_refused(dims):
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "w")
    weight.dims[:] = dims
    with pytest.raises(ModelError, match="'w'"):
        describe_model(foreign_model(weight).SerializeToString(), foreign=True)


def with_layout(texts: list[str]) -> bytes:
    model = foreign_model()
    for text in texts:
        model.metadata_props.add(key="hedgerow.layout", value=text)
    return model.SerializeToString()


def layout_text(**fields: object) -> str:
    spec = TensorSpec(**{"name": "w", "shape": (2, 2), "kind": "linear", "prunable": True, **fields})
    return base64.b64encode(Layout(tensors=(spec,)).to_bytes()).decode()


@pytest.mark.parametrize("text", ["", "!!!", "AAAA", layout_text()[:-8], layout_text() + "AAAA", "ü"])
def test_unreadable_layout_is_a_model_error(text):
    with pytest.raises(ModelError, match="layout in the model cannot be read"):
        template_layout(with_layout([text]))


def test_two_layouts_are_refused():
    with pytest.raises(ModelError, match="two layouts"):
        template_layout(with_layout([layout_text(), layout_text()]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "v"}, "'v' of the layout is not among"),
        ({"shape": (4,)}, r"'w' is \(2, 2\) in the model and \(4,\)"),
    ],
)
def test_layout_that_does_not_fit_the_initialisers_is_refused(fields, words):
    for use in (template_layout, template_parameters, describe_model):
        with pytest.raises(TemplateError, match=words):
            use(with_layout([layout_text(**fields)]))


def test_integer_initialiser_is_no_weight():
    model = foreign_model(numpy_helper.from_array(np.zeros((2, 2), np.int64), "w"))
    model.metadata_props.add(key="hedgerow.layout", value=layout_text())
    with pytest.raises(TemplateError, match="'w' is INT64"):
        template_layout(model.SerializeToString())


def test_doubled_initialiser_is_refused():
    model = foreign_model()
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.metadata_props.add(key="hedgerow.layout", value=layout_text())
    with pytest.raises(TemplateError, match="in the model twice"):
        template_layout(model.SerializeToString())


def test_weights_in_float_data_are_read_and_replaced():
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 0.0])
    model = foreign_model(weight)
    model.metadata_props.add(key="hedgerow.layout", value=layout_text())
    data = model.SerializeToString()
    assert template_parameters(data).tolist() == [1, 2, 3, 0]
    assert describe_model(data)["zeros_share"] == 0.25
    filled = fill_template(data, np.arange(4, dtype=np.float32), layout=template_layout(data))
    assert template_parameters(filled).tolist() == [0, 1, 2, 3]


def test_filling_needs_the_same_layout(mlp):
    specs = mlp.layout.tensors
    renamed = Layout(tensors=(*specs[:-1], TensorSpec(name="x", shape=(2,), kind="bias", prunable=False)))
    with pytest.raises(TemplateError, match=r"'4.bias' \(2,\) other, not prunable there, 'x' \(2,\) bias"):
        fill_template(mlp.template, mlp.flat(), layout=renamed)
    with pytest.raises(TemplateError, match="6 tensors there, 5 here"):
        fill_template(mlp.template, mlp.flat(), layout=Layout(tensors=specs[:-1]))


@pytest.mark.parametrize(
    "flat", [np.zeros(3, np.float32), np.zeros((98, 1), np.float32), np.zeros(98, np.float64)]
)
def test_filling_needs_one_float32_per_parameter(mlp, flat):
    assert mlp.layout.num_parameters == 98
    with pytest.raises(TemplateError, match=r"float32 of shape \(98,\), got"):
        fill_template(mlp.template, flat, layout=mlp.layout)


def test_metadata_is_replaced_not_piled_up(mlp):
    first = fill_template(mlp.template, mlp.flat(), layout=mlp.layout, metadata={"run": "a", "round": "1"})
    second = fill_template(first, mlp.flat(), layout=mlp.layout, metadata={"run": "b"})
    assert describe_model(first)["metadata"] == {"run": "a", "round": "1"}
    assert describe_model(second)["metadata"] == {"run": "b"}
    assert fill_template(second, mlp.flat(), layout=mlp.layout) == mlp.template


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"layout": "x"}, "layout"),
        ({"seal": "x"}, "seal"),
        ({"Run Name": "x"}, "Run Name"),
        ({"": "x"}, ""),
        ({"a" * 65: "x"}, "a" * 65),
        ({"round": 3}, "round"),
        ({"note": "x" * 4097}, "note"),
        ({"note": "\udc80"}, "note"),
    ],
)
def test_bad_metadata_is_refused_by_key(mlp, entry, key):
    with pytest.raises(MetadataError) as caught:
        fill_template(mlp.template, mlp.flat(), layout=mlp.layout, metadata=entry)
    assert caught.value.key == key
    assert isinstance(caught.value, ExportError)


def test_description_of_a_template(mlp):
    flat = mlp.flat()
    flat[:36] = 0
    data = fill_template(mlp.template, flat, layout=mlp.layout, metadata={"accuracy": "0.91"})
    told = describe_model(data)
    assert told["tensors"][0] == {
        "name": "0.weight",
        "shape": [6, 6],
        "zeros": 36,
        "kind": "other",
        "prunable": True,
    }
    del told["tensors"]
    assert told == {
        "bytes": len(data),
        "sealed": True,
        "ir_version": 10,
        "opset": 20,
        "producer": "hedgerow",
        "inputs": [{"name": "input", "dtype": "float", "shape": [None, 6]}],
        "outputs": [{"name": "output", "dtype": "float", "shape": [None, 2]}],
        "nodes": 5,
        "operators": {"Gemm": 3, "Relu": 2},
        "parameters": 98,
        "zeros_share": 36 / 98,
        "layout": mlp.layout.digest.hex(),
        "metadata": {"accuracy": "0.91"},
    }


def test_malformed_graph_is_the_checkers_sentence():
    model = foreign_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="breaks the rules of ONNX") as caught:
        verify_model(model.SerializeToString(), np.zeros((1, 2), np.float32))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Runner(model.SerializeToString())


def test_nothing_is_printed_for_a_broken_model(capfd):
    model = foreign_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError):
        Runner(model.SerializeToString())
    assert capfd.readouterr() == ("", "")


def test_scalar_layout_tensors_survive():
    weight = numpy_helper.from_array(np.array([[1, 0], [2, 0]], np.float32), "w")
    model = foreign_model(weight)
    model.graph.initializer.add().CopyFrom(numpy_helper.from_array(np.array(math.pi, np.float32), "s"))
    specs = (
        TensorSpec(name="w", shape=(2, 2), kind="linear", prunable=True),
        TensorSpec(name="s", shape=(), kind="other", prunable=False),
    )
    text = base64.b64encode(Layout(tensors=specs).to_bytes()).decode()
    model.metadata_props.add(key="hedgerow.layout", value=text)
    assert template_parameters(model.SerializeToString()).tolist() == [1, 0, 2, 0, float(np.float32(math.pi))]
