"""The template keeps names, shapes and meaning: what other weights do to it is what they do to the module."""

import copy
import getpass
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import hedgerow_export.exporter_noise
import hedgerow_export.template
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import (
    MissingPackageError,
    Runner,
    TemplateError,
    fill_template,
    make_template,
    template_layout,
    template_parameters,
    verify_model,
)


def other_weights(layout: Layout, seed: int) -> np.ndarray:
    """Return weights that differ everywhere; vectors stay positive, because some are variances."""
    rng = np.random.default_rng(seed)
    parts = {
        spec.name: rng.standard_normal(spec.shape) * 0.3
        if len(spec.shape) > 1
        else rng.uniform(0.2, 2, spec.shape)
        for spec in layout.tensors
    }
    return layout.join(parts)


def layout_for(module: nn.Module) -> Layout:
    return Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), kind="other", prunable=False)
            for name, tensor in module.state_dict().items()
        )
    )


def test_module_and_template_agree(exported):
    result = verify_model(
        exported.template, exported.inputs, exported.eager(exported.flat(), exported.inputs)
    )
    assert result.max_abs_error < 1e-5
    assert result.num_samples == 6


@pytest.mark.parametrize("seed", [3, 4])
def test_other_weights_by_name_give_the_modules_outputs(exported, seed):
    flat = other_weights(exported.layout, seed)
    model = fill_template(exported.template, flat, layout=exported.layout)
    wanted = exported.eager(flat, exported.inputs)
    assert np.abs(wanted - exported.eager(exported.flat(), exported.inputs)).max() > 0.01
    assert np.abs(Runner(model)(exported.inputs) - wanted).max() < 1e-4


def test_onnxs_own_reference_agrees(exported):
    result = verify_model(exported.template, exported.inputs)
    assert result.reference == "onnx.reference"
    assert result.max_abs_error < 1e-5


def test_every_tensor_of_the_layout_is_an_initialiser_of_its_shape(exported):
    model = onnx.load_model_from_string(exported.template)
    held = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert {spec.name: spec.shape for spec in exported.layout.tensors}.items() <= held.items()
    assert template_layout(exported.template) == exported.layout


def test_weights_come_back_as_they_went_in(exported):
    assert np.array_equal(template_parameters(exported.template), exported.flat())
    flat = other_weights(exported.layout, 5)
    model = fill_template(exported.template, flat, layout=exported.layout)
    assert np.array_equal(template_parameters(model), flat)


@pytest.mark.parametrize("rows", [1, 2, 5, 300])
def test_batch_is_dynamic(exported, rows):
    inputs = np.resize(exported.inputs, (rows, *exported.inputs.shape[1:]))
    assert len(Runner(exported.template)(inputs)) == rows


def test_form_and_contents(exported):
    model = onnx.load_model_from_string(exported.template)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [entry.key for entry in model.metadata_props] == ["hedgerow.layout", "hedgerow.seal"]
    assert len(model.graph.value_info) == 0
    assert len(model.graph.input) == len(model.graph.output) == 1
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_no_path_or_source_line_is_left(exported):
    strings = re.findall(rb"[\x20-\x7e]{4,}", exported.template)
    assert not [text for text in strings if b"/" in text and b".py" in text]
    assert b"torch" not in exported.template
    assert b"conftest" not in exported.template


@pytest.mark.parametrize("exported", ["cnn", "cnn with norm"], indirect=True)
def test_flattening_is_one_reshape_to_known_sizes(exported):
    model = onnx.load_model_from_string(exported.template)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (reshape,) = (node for node in model.graph.node if node.op_type == "Reshape")
    assert values[reshape.input[1]].tolist() == [-1, 32]
    assert not {"Shape", "Concat"} & {node.op_type for node in model.graph.node}


def test_batch_norm_stays_unfused(residual):
    model = onnx.load_model_from_string(residual.template)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 2


def test_equal_initial_values_are_not_merged(residual):
    """Fresh norm layers are equal to the bit: ones, zeros, zeros, ones."""
    state = residual.module.state_dict()
    assert torch.equal(state["norm1.weight"], state["norm2.running_var"])
    norms = [
        node
        for node in onnx.load_model_from_string(residual.template).graph.node
        if node.op_type == "BatchNormalization"
    ]
    names = [name for node in norms for name in node.input[1:]]
    assert names == [
        f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias", "running_mean", "running_var")
    ]


def test_module_is_left_as_it_was_and_same_modules_give_the_same_bytes(mlp):
    module = copy.deepcopy(mlp.module).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert make_template(module, mlp.inputs, layout=mlp.layout) == mlp.template
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


class Spare(nn.Module):
    """Two outputs, and a layer that nothing reads."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        print("noise of the user's module")
        return {"first": self.head(x), "second": x.sum(1)}


def test_first_output_and_unused_tensors_are_kept_and_nothing_is_printed(capfd):
    module = Spare()
    layout = layout_for(module)
    template = make_template(module, torch.randn(1, 3), layout=layout)
    assert capfd.readouterr() == ("", "")
    wanted = layout.join({name: tensor.numpy() for name, tensor in module.state_dict().items()})
    assert np.array_equal(template_parameters(template), wanted)
    assert len(onnx.load_model_from_string(template).graph.output) == 1
    inputs = np.ones((4, 3), np.float32)
    with torch.no_grad():
        assert np.allclose(Runner(template)(inputs), module.head(torch.from_numpy(inputs)), atol=1e-6)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


class Singular(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x.view(-1, 2, 2))


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(x.numel() // 4, 4).reshape(3, 4) if x.shape[0] == 3 else x


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        return self.head(self.inner(x))


@pytest.mark.parametrize(
    ("inner", "words", "blamed"),
    [
        (Branch(), "submodule 'inner' (Branch) takes a branch", "inner"),
        (Singular(), "Operator aten._linalg_svd in submodule 'inner' (Singular)", "inner"),
        (FixedBatch(), "one batch size only", None),
        (nn.Linear(5, 4), "Submodule 'inner' fails on an input of shape (5, 4)", "inner"),
    ],
)
def test_what_cannot_be_exported_is_named(inner, words, blamed):
    module = Around(inner)
    if not isinstance(inner, nn.Linear):
        module(torch.ones(3, 4))
    else:
        module.head = nn.Linear(4, 2)
    with pytest.raises(TemplateError) as caught:
        make_template(module, torch.ones(3, 4), layout=layout_for(module))
    assert words in str(caught.value)
    assert caught.value.module == blamed
    assert "\n" not in str(caught.value)


def bad_layouts(module: nn.Module) -> dict[str, Layout]:
    first, *rest = layout_for(module).tensors
    return {
        "has no tensor 'ghost'": Layout(
            tensors=(first, *rest, TensorSpec(name="ghost", shape=(1,), kind="other", prunable=False))
        ),
        "layout wants float32 of shape (9, 9)": Layout(
            tensors=(TensorSpec(name=first.name, shape=(9, 9), kind="other", prunable=False), *rest)
        ),
    }


@pytest.mark.parametrize("words", ["has no tensor 'ghost'", "layout wants float32 of shape (9, 9)"])
def test_layout_of_another_module_is_refused(words):
    module = nn.Linear(3, 2)
    with pytest.raises(TemplateError) as caught:
        make_template(module, torch.randn(2, 3), layout=bad_layouts(module)[words])
    assert words in str(caught.value)


def test_integer_tensor_in_the_layout_is_refused():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(TemplateError, match=r"'1\.num_batches_tracked' is int64"):
        make_template(module, torch.randn(2, 3), layout=layout_for(module))


def test_shared_tensors_are_refused():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    with pytest.raises(TemplateError, match=r"'0.weight' and '1.weight' share") as caught:
        make_template(module, torch.randn(2, 3), layout=layout_for(module))
    assert caught.value.tensor == "1.weight"


@pytest.mark.parametrize("example", [np.float32(1), np.zeros((0, 3), np.float32)])
def test_example_without_a_row_is_refused(example):
    module = nn.Linear(3, 2)
    with pytest.raises(TemplateError, match="at least one row"):
        make_template(module, example, layout=layout_for(module))


@pytest.fixture(scope="module")
def exporters_graph(mlp):
    """Return what torch's exporter makes of the perceptron; it is the same every time."""
    module = copy.deepcopy(mlp.module)
    weights = hedgerow_export.template._random_weights(mlp.layout, seed=1)
    hedgerow_export.template._write(module.state_dict(), mlp.layout, weights)
    with hedgerow_export.exporter_noise.quiet():
        return hedgerow_export.template._export(module, torch.from_numpy(mlp.inputs[:3]))


@pytest.fixture
def broken_export(exporters_graph, monkeypatch):
    """Put an exporter in place that hands out a changed graph."""

    def put(change):
        graph = copy.deepcopy(exporters_graph)
        change(graph.graph)
        monkeypatch.setattr(hedgerow_export.template, "_export", lambda module, rows: graph)

    return put


def reread(graph, name, instead):
    """Make every node read another initialiser."""
    for node in graph.node:
        for i, read in enumerate(node.input):
            if read == name:
                node.input[i] = instead


def tensor_of(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def test_sound_graph_passes(mlp, broken_export):
    broken_export(lambda graph: None)
    assert make_template(mlp.module, mlp.inputs, layout=mlp.layout) == mlp.template


def test_renamed_or_folded_tensor_is_refused_by_name(mlp, broken_export):
    def fold(graph):
        tensor_of(graph, "2.weight").name = "2.weight_folded"
        reread(graph, "2.weight", "2.weight_folded")

    broken_export(fold)
    with pytest.raises(TemplateError, match=r"folded tensor '2.weight'") as caught:
        make_template(mlp.module, mlp.inputs, layout=mlp.layout)
    assert (caught.value.tensor, caught.value.module) == ("2.weight", "2")


def test_transposed_tensor_is_refused_by_name(mlp, broken_export):
    def transpose(graph):
        tensor_of(graph, "4.weight").dims[:] = [6, 2]

    broken_export(transpose)
    with pytest.raises(TemplateError, match=r"'4.weight' is \(6, 2\) in the model and \(2, 6\)"):
        make_template(mlp.module, mlp.inputs, layout=mlp.layout)


def test_merged_tensors_are_noticed(mlp, broken_export):
    """Both names are there with their shapes, and one is read in the place of the other."""
    broken_export(lambda graph: reread(graph, "2.weight", "0.weight"))
    with pytest.raises(TemplateError, match="the exported model is off by"):
        make_template(mlp.module, mlp.inputs, layout=mlp.layout)


def test_user_without_a_name_is_lent_one_for_a_while(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nobody)
    with hedgerow_export.exporter_noise.quiet():
        assert os.environ["USER"] == "hedgerow"
    assert "USER" not in os.environ


QUIET = """
import logging, torch
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import make_template
torch.set_num_threads(1)
module = torch.nn.Linear(3, 2)
layout = Layout(tensors=(
    TensorSpec(name="weight", shape=(2, 3), kind="linear", prunable=True),
    TensorSpec(name="bias", shape=(2,), kind="bias", prunable=False),
))
print(len(make_template(module, torch.randn(1, 3), layout=layout)))
assert logging.root.manager.disable == 0
"""


@pytest.mark.slow
def test_exporter_says_nothing_from_a_fresh_start():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip().isdecimal()


def test_missing_onnxscript_is_a_sentence(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else real(name, *rest)
    )
    with pytest.raises(MissingPackageError, match=r"onnxscript is not installed.*hedgerow\[init\]"):
        make_template(nn.Linear(3, 2), torch.randn(2, 3), layout=layout_for(nn.Linear(3, 2)))


def test_import_of_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'onnxscript', 'matplotlib', 'rich'}"
    code = f"import sys, hedgerow_export; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
