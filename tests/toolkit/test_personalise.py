"""`hedgerow personalise`: a device's own model, adapted to its data and proven against torch."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from hedgerow.main import main
from hedgerow.personalising import Adaptation, frozen_names, own_model
from hedgerow_codecs import Layout, TensorSpec, seeded_parameters, signed_constants
from hedgerow_edge_client import ClientState, Snapshot
from hedgerow_export import DeviceModel

TASK = """
import numpy as np
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))

def load_data(data, client):
    inputs = np.random.default_rng(len(client)).normal(size=(200, 6)).astype(np.float32)
    return inputs, inputs[:, :3].argmax(1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
LAYOUT = Layout(
    tensors=(
        TensorSpec(name="0.weight", shape=(24, 6), kind="linear", prunable=True),
        TensorSpec(name="0.bias", shape=(24,), kind="bias", prunable=False),
        TensorSpec(name="2.weight", shape=(12, 24), kind="linear", prunable=True),
        TensorSpec(name="2.bias", shape=(12,), kind="bias", prunable=False),
        TensorSpec(name="4.weight", shape=(3, 12), kind="linear", prunable=False),
        TensorSpec(name="4.bias", shape=(3,), kind="bias", prunable=False),
    )
)
WEIGHTS = seeded_parameters(LAYOUT, seed=2)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


def snapshot_in(folder: Path, **values: object) -> Path:
    settings: dict[str, object] = {
        "run": "digits-1",
        "layout": LAYOUT.digest,
        "version": 4,
        "weights": WEIGHTS,
        "live": np.ones(WEIGHTS.size, np.bool_),
        "residual": np.zeros_like(WEIGHTS),
    }
    state = ClientState(folder)
    state.save(Snapshot(**(settings | values)))  # type: ignore[arg-type]
    state.close()
    return folder


def own_mask() -> np.ndarray:
    live = np.ones(WEIGHTS.size, np.bool_)
    # Four whole channels of the first layer, and half of what is left of the second one.
    live[: 4 * 6] = False
    columns = live[168 : 168 + 288].reshape(12, 24)
    columns[:, :4] = False
    columns[::2, 4:] = False
    return live


def test_a_personal_model_is_adapted_and_written(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = snapshot_in(tmp_path / "state", personal=own_mask())
    # The client may go on meanwhile.
    running = ClientState(state)
    output, told = tmp_path / "my.onnx", tmp_path / "my.json"
    call = ["personalise", str(task), "--state-dir", str(state), "-o", str(output), "--json", str(told)]
    assert main([*call, "--epochs", "30", "--learning-rate", "0.3", "--name", "pi-7", "--threads", "1"]) == 0
    running.close()
    said = capsys.readouterr().out
    facts = json.loads(told.read_text())
    assert facts["num_held_out"] == 40
    assert facts["num_trained"] == 160
    assert facts["after"] > facts["before"] + 0.1
    assert facts["exported"] == pytest.approx(facts["after"])
    assert facts["max_abs_error"] < 1e-4
    assert facts["was_seen"] is False
    assert "40 samples that were held out" in said
    assert "may have trained" not in said
    # Channels that nothing reads are gone.
    model = onnx.load(output)
    shapes = {tuple(tensor.dims) for tensor in model.graph.initializer}
    assert (24, 6) not in shapes
    assert (20, 6) in shapes or (6, 20) in shapes
    assert any(e.key.endswith("client") and e.value == "pi-7" for e in model.metadata_props)
    assert DeviceModel(output).predict(np.zeros((1, 6), np.float32)).shape == (1, 3)


def test_without_training_the_file_is_the_model_that_came(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = snapshot_in(tmp_path / "state")
    output = tmp_path / "my.onnx"
    call = ["personalise", str(task), "--state-dir", str(state), "-o", str(output), "--threads", "1"]
    assert main([*call, "--epochs", "0"]) == 0
    first = output.read_bytes()
    assert "The run may have trained on the samples that are held out here" in capsys.readouterr().out
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(output).graph.initializer}
    np.testing.assert_array_equal(held["4.bias"], WEIGHTS[-3:])
    # A bad call leaves the file as it was.
    assert main([*call, "--freeze", "nothing.*"]) == 2
    assert "nothing.*" in capsys.readouterr().err
    assert output.read_bytes() == first


def test_which_layers_are_trained() -> None:
    assert frozen_names(LAYOUT, Adaptation()) == ()
    assert frozen_names(LAYOUT, Adaptation(last=True)) == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert frozen_names(LAYOUT, Adaptation(freeze=("0",))) == ("0.weight", "0.bias")


def test_the_model_of_a_device() -> None:
    base = {"run": "r", "layout": LAYOUT.digest, "version": 1, "residual": np.zeros_like(WEIGHTS)}
    shared = np.ones(WEIGHTS.size, np.bool_)
    shared[:10] = False
    plain = Snapshot(**base, weights=WEIGHTS, live=shared)  # type: ignore[arg-type]
    weights, mask = own_model(plain, LAYOUT)
    assert np.array_equal(mask.live, shared)
    assert not weights[:10].any()
    own = Snapshot(**base, weights=WEIGHTS, live=shared, personal=own_mask())  # type: ignore[arg-type]
    assert np.array_equal(own_model(own, LAYOUT)[1].live, shared & own_mask())
    likely = np.random.default_rng(0).random(WEIGHTS.size).astype(np.float32)
    dense = np.ones(WEIGHTS.size, np.bool_)
    sampled = Snapshot(**base, weights=likely, live=dense, sampled=9)  # type: ignore[arg-type]
    weights, mask = own_model(sampled, LAYOUT)
    np.testing.assert_array_equal(weights, np.where(likely >= 0.5, signed_constants(LAYOUT, seed=9), 0))
    assert np.array_equal(mask.live, (likely >= 0.5) | ~LAYOUT.prunable())


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ("missing", 6, "is no state folder of a client"),
        ("damaged", 6, "is damaged"),
        ("empty", 2, "holds no model yet"),
        ("foreign", 2, "holds another model than"),
    ],
)
def test_a_folder_that_will_not_do_is_a_sentence(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, code: int, sentence: str
) -> None:
    state = tmp_path / "state"
    if change != "missing":
        values = {"empty": {"version": -1}, "foreign": {"layout": b"x" * 16}}.get(change, {})
        snapshot_in(state, **values)
    if change == "damaged":
        path = state / "snapshot"
        path.write_bytes(path.read_bytes()[:-5])
    output = tmp_path / "my.onnx"
    assert (
        main(["personalise", str(task), "--state-dir", str(state), "-o", str(output), "--threads", "1"])
        == code
    )
    assert sentence in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epochs", "-1"], "--epochs must be from 0"),
        (["--learning-rate", "nan"], "--learning-rate must be above 0"),
        (["--held-out", "1"], "--held-out must be above 0 and below 1"),
        (["--data", "nowhere"], "is not a folder"),
        (["-o", "nowhere/my.onnx"], "is not a file in a folder that is there"),
    ],
)
def test_a_bad_call_is_a_sentence(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main(["personalise", str(task), "--state-dir", str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err
