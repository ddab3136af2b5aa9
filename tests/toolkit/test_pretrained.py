"""First weights from files: what is taken, what is told, and what is refused."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow.pretrained import match_weights, pretrained, read_weights
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_coordinator import load_plan
from hedgerow_export import read_model, template_parameters

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="body.weight", shape=(3, 2), kind="linear", prunable=True),
        TensorSpec(name="body.bias", shape=(3,), kind="bias", prunable=False),
        TensorSpec(name="head.weight", shape=(2, 3), kind="linear", prunable=False),
    )
)
BODY = {
    "body.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "body.bias": np.array([0.5, -0.0, 1e-40], np.float32),
}
HEAD = {"head.weight": np.full((2, 3), 7, np.float32)}
FIRST = np.full(15, -1, np.float32)


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".onnx":
        tensors = [numpy_helper.from_array(values, name) for name, values in arrays.items()]
        floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        graph = helper.make_graph(nodes, "g", floats[:1], floats[1:], initializer=tensors)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    else:
        torch.save({name: torch.from_numpy(values.copy()) for name, values in arrays.items()}, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.onnx", "w.pt", "w.pth", "w.bin", "w.PT"])
def test_all_kinds_of_files_give_the_same_bits(tmp_path: Path, name: str) -> None:
    match = match_weights(read_weights(write(tmp_path / name, BODY | HEAD)), LAYOUT)
    flat = pretrained(match, FIRST, layout=LAYOUT, partial=False, path=tmp_path / name)
    assert flat.tobytes() == LAYOUT.join(BODY | HEAD).tobytes()
    assert match.sentences(LAYOUT) == ["3 of 3 tensors come from the file, 15 of 15 parameters"]


def test_a_part_is_taken_when_asked_for_and_told(tmp_path: Path) -> None:
    arrays = BODY | {"head.weight": np.zeros((5, 3), np.float32), "other.weight": np.zeros(2, np.float32)}
    path = write(tmp_path / "w.safetensors", {k: v for k, v in arrays.items() if k != "body.bias"})
    match = match_weights(read_weights(path), LAYOUT)
    assert match.sentences(LAYOUT) == [
        "1 of 3 tensors come from the file, 6 of 15 parameters",
        "not in the file: body.bias",
        "of another shape: 'head.weight' (5 x 3 there, 2 x 3 in the model)",
        "in the file and not in the model: other.weight",
    ]
    with pytest.raises(UsageError) as caught:
        pretrained(match, FIRST, layout=LAYOUT, partial=False, path=path)
    assert str(caught.value) == (
        f"--weights {path} lacks body.bias and has another shape for 'head.weight' (5 x 3 there, 2 x 3 in "
        "the model): --partial takes the 1 tensors that fit, and leaves the others as build_model makes them"
    )
    flat = pretrained(match, FIRST, layout=LAYOUT, partial=True, path=path)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 9


def test_a_beginning_that_all_names_share_is_taken_off() -> None:
    wrapped = {f"module.{name}": values for name, values in (BODY | HEAD).items()}
    match = match_weights(wrapped, LAYOUT)
    assert (len(match.taken), match.prefix, match.unused) == (3, "module.", ())
    # Not where a name fits as it is, and not where one begins otherwise.
    assert match_weights(wrapped | BODY, LAYOUT).prefix == ""
    assert match_weights(wrapped | {"x.y": FIRST}, LAYOUT).taken == {}


def test_a_checkpoint_of_a_training_script_is_looked_into(tmp_path: Path) -> None:
    state = {name: torch.from_numpy(values) for name, values in (BODY | HEAD).items()}
    counters = {"body.num_batches_tracked": torch.tensor(3)}
    torch.save({"epoch": 3, "state_dict": state | counters}, tmp_path / "w.pt")
    match = match_weights(read_weights(tmp_path / "w.pt"), LAYOUT)
    assert (len(match.taken), match.unused) == (3, ())


def test_other_widths_of_floats_become_float32(tmp_path: Path) -> None:
    halves = {name: values.astype(np.float16) for name, values in HEAD.items()}
    doubles = {name: values.astype(np.float64) for name, values in BODY.items()}
    match = match_weights(read_weights(write(tmp_path / "w.safetensors", halves | doubles)), LAYOUT)
    assert {values.dtype for values in match.taken.values()} == {np.dtype(np.float32)}
    assert match.taken["head.weight"].tolist() == [[7, 7, 7], [7, 7, 7]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_float32_has_not_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"tensor 'head.weight' of the weights holds a value"):
        match_weights({"head.weight": np.full((2, 3), value)}, LAYOUT)


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


def test_nothing_of_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"body.weight": Code()}, "w.pt")
    with pytest.raises(UsageError, match=r"is damaged or holds more than tensors, and nothing of it is run"):
        read_weights(Path("w.pt"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".pt"])
def test_a_file_that_is_cut_or_damaged_is_refused_with_a_sentence(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"whole{suffix}", BODY | HEAD).read_bytes()
    path = tmp_path / f"w{suffix}"
    lengths = [0, 1, 7, 8, 20, len(whole) // 2, len(whole) - 1]
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in lengths] + [b"junk", b"PK\x03\x04junk"]
    for _ in range(30):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    refusals = []
    for data in damaged:
        path.write_bytes(data)
        try:
            # Other values of the same file are no damage that anybody could see.
            match_weights(read_weights(path), LAYOUT)
        except UsageError as error:
            refusals.append(str(error))
    assert len(refusals) >= len(lengths)
    assert not any("\n" in refusal for refusal in refusals)


def begin_with(path: Path) -> None:
    match = match_weights(read_weights(path), LAYOUT)
    pretrained(match, FIRST, layout=LAYOUT, partial=True, path=path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("w.npz", "must end in .safetensors, .onnx, .pt, .pth, .bin, which says how to read it"),
        ("no.pt", "there is no such file"),
        ("list.pt", "holds a list: save model.state_dict()"),
        ("bf16.safetensors", "tensor 'head.weight' is BF16: save it as float32"),
        ("ints.onnx", "has no tensor of this model: it has no float tensors, the model has body.weight"),
        ("others.pt", "has no tensor of this model: it has a, b, c and 1 more, the model has body.weight"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    torch.save([1], tmp_path / "list.pt")
    save_torch_file({"head.weight": torch.zeros(2, 3, dtype=torch.bfloat16)}, tmp_path / "bf16.safetensors")
    write(tmp_path / "ints.onnx", {"body.bias": np.arange(3)})
    write(tmp_path / "others.pt", dict.fromkeys("abcd", FIRST))
    with pytest.raises(UsageError) as caught:
        begin_with(tmp_path / name)
    assert sentence in str(caught.value)


def test_an_onnx_model_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="head.weight", dims=[2, 3], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    graph = helper.make_graph([], "g", [], [], initializer=[tensor])
    onnx.save(helper.make_model(graph), tmp_path / "w.onnx")
    with pytest.raises(UsageError, match=r"is no ONNX model that can be read"):
        read_weights(tmp_path / "w.onnx")


TASK = """
import numpy as np
from torch import nn

freeze = ("0",)

def build_model():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].bias.requires_grad_(False)
    return model

def load_data(data, client):
    inputs = np.ones((8, 8), np.float32)
    return inputs, np.zeros(8, np.int64)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def test_init_begins_with_the_weights_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.py"
    task.write_text(TASK)
    path = write(tmp_path / "w.safetensors", {"0.weight": np.full((16, 8), 0.25, np.float32)})
    call = ["init", str(task), "--output", str(tmp_path), "--weights", str(path)]
    assert main(call) == ExitCode.USAGE
    assert "lacks 0.bias, 2.weight, 2.bias and 2 more: --partial takes" in capsys.readouterr().err
    assert main([*call, "--partial", "--freeze", "4.bias"]) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "307 parameters, 128 of them prunable, 155 frozen (4 of 6 tensors)" in said
    assert "1 of 6 tensors come from the file, 128 of 307 parameters" in said
    plan = load_plan(tmp_path / "plan.toml")
    assert plan.model.init == "pretrained"
    # The task's, what takes no gradient, and the command line's.
    assert plan.model.freeze == ("0", "2.bias", "4.bias")
    flat = template_parameters(read_model(tmp_path / "template.onnx"))
    assert (flat[:128] == 0.25).all()
    assert len(np.unique(flat[128:])) > 100


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--partial"], "--partial is about --weights: name the file"),
        (["--weights", "no.pt"], "there is no such file"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_torch_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    assert main(["init", str(tmp_path / "task.py"), "--output", str(tmp_path), *options]) == ExitCode.USAGE
    assert re.search(re.escape(sentence), capsys.readouterr().err)
    assert not (tmp_path / "plan.toml").exists()
