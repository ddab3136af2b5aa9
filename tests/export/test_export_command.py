"""`hedgerow export` and `hedgerow infer`, from a run directory to answers on a device."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from packaging.requirements import Requirement

import hedgerow.exporting
from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow.report import collect_facts
from hedgerow_codecs import Mask
from hedgerow_coordinator import CHECK_DATA, RoundRecord, RunStore, ServerState
from hedgerow_export import (
    DeviceModel,
    ModelError,
    Runner,
    channel_groups,
    describe_model,
    fill_template,
    make_sparse,
    template_layout,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_dir(build, tmp_path_factory) -> Path:
    """Return a run of three rounds over the plain network; its mask cuts off five of fc1's channels."""
    plain = build("plain")
    layout = plain.layout
    directory = tmp_path_factory.mktemp("export") / "run"
    plan = b'[run]\nname = "plain"\n[model]\ntemplate = "template.onnx"\n'
    live = np.ones(layout.num_parameters, bool)
    starts = dict(zip((spec.name for spec in layout.tensors), layout.offsets, strict=False))
    cut = live[starts["fc2.weight"] : starts["fc2.weight"] + 80].reshape(5, 16)
    cut[:, [1, 4, 7, 10, 13]] = False
    mask = Mask(layout=layout, live=live)
    rng = np.random.default_rng(2)
    flat = plain.flat()
    layout.split(flat)["fc2.weight"][...] = rng.standard_normal((5, 16)) * 3
    with RunStore.create(
        directory, plan_bytes=plan, template_bytes=plain.template, run_id="plain-1"
    ) as store:
        for version in range(4):
            state = ServerState(
                version=version,
                mask=mask,
                weights=flat * (1 + version / 8),
                published=flat,
                notes={"mask_epoch": 2},
            )
            store.commit_round(RoundRecord(round=version, started=0.0, ended=1.0, seconds=1.0), state)
    inputs = rng.standard_normal((120, 3, 8, 8)).astype(np.float32)
    np.savez(
        directory / CHECK_DATA, inputs=inputs, targets=plain.eager(flat * mask.live * 1.375, inputs).argmax(1)
    )
    return directory


def export(run_dir, *options):
    return main(["export", str(run_dir), *map(str, options)])


def test_the_table_and_the_json_tell_of_the_file(run_dir, tmp_path, capsys):
    model, facts = tmp_path / "model.onnx", tmp_path / "facts.json"
    assert export(run_dir, "-o", model, "--json", facts) == ExitCode.DONE
    told = json.loads(facts.read_text())
    said = capsys.readouterr().out
    assert told["round"] == 3
    assert told["exported"]["file_bytes"] == told["onnx_bytes"] == model.stat().st_size
    assert told["exported"]["metric"] == told["dense"]["metric"] == 1.0
    assert told["agreement"]["max_abs_error"] < 1e-4
    assert told["exported"]["multiply_adds"] == told["dense"]["multiply_adds"] - 5 * (32 + 5)
    assert told["exported"]["latency"][0]["threads"] == 1
    assert f"{model.stat().st_size:,} bytes" in said
    assert "multiply-adds" in said
    assert "p95, 1 thread" in said
    assert {g.id: g.size for g in channel_groups(model.read_bytes())}["fc1.weight"] == 11
    kept = json.loads((run_dir / hedgerow.exporting.EXPORT_FACTS).read_text())
    assert kept.pop("table") in said
    assert kept == told


def test_the_report_shows_the_last_export(run_dir, tmp_path):
    assert export(run_dir, "-o", tmp_path / "model.onnx", "--sparse") == ExitCode.DONE
    table = hedgerow.exporting.last_export(run_dir)
    assert table.startswith("round 3\n")
    with RunStore.open(run_dir, read_only=True) as store:
        assert collect_facts(store).export == table
    page = tmp_path / "report.html"
    assert main(["report", str(run_dir), "-o", str(page)]) == ExitCode.DONE
    assert "<h2>Exported model</h2>" in page.read_text()
    assert "multiply-adds" in page.read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"table": 3}', "[" * 100_000])
def test_a_broken_note_of_an_export_is_passed_over(tmp_path, content):
    (tmp_path / hedgerow.exporting.EXPORT_FACTS).write_text(content)
    assert hedgerow.exporting.last_export(tmp_path) == ""


def test_int8_with_facts_in_the_model(run_dir, tmp_path, capsys):
    model, labels = tmp_path / "model.onnx", tmp_path / "labels.txt"
    labels.write_text("oak\nash\nelm\nyew\nfir\n")
    words = ("--input-meaning", "RGB, 8x8, standardised", "--licence", "CC0-1.0", "--max-drop", 5)
    assert export(run_dir, "-o", model, "--target", "pi5", "--labels", labels, *words) == ExitCode.DONE
    assert "quantised  4 layers" in capsys.readouterr().out
    held = Runner(model.read_bytes()).metadata
    assert held["run"] == "plain-1"
    assert held["round"] == "3"
    assert held["mask_epoch"] == "2"
    assert held["quantize"] == "int8"
    assert held["licence"] == "CC0-1.0"
    assert held["input"] == "RGB, 8x8, standardised"
    assert json.loads(held["labels"]) == ["oak", "ash", "elm", "yew", "fir"]
    kinds = {t.data_type for t in onnx.load(model).graph.initializer if len(t.dims) > 1}
    assert kinds == {onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("options", "kind"),
    [(["--quantize", "int8", "--max-drop", "5"], "int8"), (["--sparse"], "sparse float32")],
)
def test_inspect_knows_what_came_out(build, tmp_path, capsys, run_dir, options, kind):
    path = tmp_path / "model.onnx"
    assert export(run_dir, "-o", path, *options) == ExitCode.DONE
    if kind != "int8":  # the plain network has nothing that is worth storing sparsely
        flat = build("plain").flat()
        flat[np.arange(flat.size) % 10 != 0] = 0
        model = fill_template(build("plain").template, flat, layout=build("plain").layout)
        path.write_bytes(make_sparse(model)[0])
    capsys.readouterr()
    assert main(["inspect", str(path), "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert "Hedgerow" in json.dumps(told)
    found = describe_model(path.read_bytes(), foreign=True)
    assert kind in {entry.get("kind") for entry in found["tensors"]}


def test_an_older_round(run_dir, tmp_path, capsys):
    newer, older = tmp_path / "3.onnx", tmp_path / "2.onnx"
    assert export(run_dir, "-o", newer) == ExitCode.DONE
    assert export(run_dir, "-o", older, "--round", 2) == ExitCode.DONE
    assert Runner(older.read_bytes()).metadata["round"] == "2"
    assert older.read_bytes() != newer.read_bytes()
    capsys.readouterr()
    assert export(run_dir, "-o", older, "--round", 9) == ExitCode.USAGE
    assert "--round 9: the run keeps the rounds 3, 2, 1" in capsys.readouterr().err


def test_a_refused_export_replaces_nothing(run_dir, tmp_path, capsys):
    """Ranges of a constant input cut off everything: no choice of layers gives the answers back."""
    model, ranges = tmp_path / "model.onnx", tmp_path / "ranges.npz"
    model.write_bytes(b"the last good one")
    np.savez(ranges, inputs=np.zeros((4, 3, 8, 8), np.float32))
    call = ("-o", model, "--quantize", "int8", "--calibration", ranges, "--max-drop", 0)
    assert export(run_dir, *call) == ExitCode.RUN_FAILED
    said = capsys.readouterr()
    assert said.err.startswith("hedgerow export: Quantised to 8 bits the model does not agree")
    assert model.read_bytes() == b"the last good one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "ranges.npz"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-drop", "-1"), "between 0 and 100"),
        (("--labels", "missing.txt"), "--labels missing.txt cannot be read"),
        (("--calibration", "missing.npz"), "--calibration: missing.npz is missing"),
        (("--json", "missing/facts.json"), "--json missing/facts.json is not a file"),
    ],
)
def test_wrong_options_are_refused(run_dir, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert export(run_dir, "-o", tmp_path / "m.onnx", *options) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


@pytest.fixture(scope="module")
def gateway_path(tmp_path_factory) -> str:
    """Return a search path with what `pip install hedgerow[gateway]` brings, and nothing else: no torch."""
    folder = tmp_path_factory.mktemp("gateway")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gateway"]]
    waiting, seen = [Requirement(text).name for text in wanted], {"hedgerow"}
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        held = importlib.metadata.distribution(name)
        for path in {Path(file).parts[0] for file in held.files or ()} - {"..", "__pycache__"}:
            if not (folder / path).exists():
                (folder / path).symlink_to(held.locate_file(path))
        more = [Requirement(text) for text in held.requires or ()]
        waiting += [r.name for r in more if r.marker is None or r.marker.evaluate({"extra": ""})]
    own = importlib.metadata.distribution("hedgerow")
    for path in {Path(file).parts[0] for file in own.files or () if ".dist-info" in str(file)}:
        (folder / path).symlink_to(own.locate_file(path))
    sources = ("codecs", "transport", "devices", "coordinator", "edge_client", "export", "toolkit")
    return ":".join([str(folder), *(str(ROOT / source) for source in sources)])


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_export_and_inference_where_torch_is_not_installed(run_dir, tmp_path, gateway_path, kind):
    model = tmp_path / "model.onnx"
    script = (
        "import importlib.util, sys\n"
        "for name in ('torch', 'onnxscript', 'sympy', 'scipy'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "from hedgerow.main import main\n"
        f"call = [{str(run_dir)!r}, '-o', {str(model)!r}, '--quantize', {kind!r}, '--max-drop', '5']\n"
        "code = main(['export', *call])\n"
        f"code = code or main(['infer', {str(model)!r}, '--benchmark'])\n"
        "sys.exit(code)\n"
    )
    # -S: the folders where this environment's packages lie are not searched.
    call = [sys.executable, "-S", "-c", script]
    environment = {"PYTHONPATH": gateway_path, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert Runner(model.read_bytes()).metadata["quantize"] == kind
    assert "ms (p50)" in done.stdout


# -- inference ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_path(run_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    (folder / "labels.txt").write_text("oak\nash\nelm\nyew\nfir\n")
    assert export(run_dir, "-o", folder / "model.onnx", "--labels", folder / "labels.txt") == 0
    return folder / "model.onnx"


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv"])
@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_inputs_of_every_kind_give_the_models_outputs(model_path, run_dir, tmp_path, capsys, suffix, stream):
    inputs = np.load(run_dir / CHECK_DATA)["inputs"][:12]
    path, out = tmp_path / f"inputs{suffix}", tmp_path / "out.npy"
    if suffix == ".npz":
        np.savez(path, inputs=inputs)
    elif suffix == ".npy":
        np.save(path, inputs)
    else:
        np.savetxt(path, inputs.reshape(12, -1), delimiter=",", header=",".join("x" * 192), comments="")
    assert main(["infer", str(model_path), "--input", str(path), "--output", str(out), *stream]) == 0
    wanted = Runner(model_path.read_bytes())(inputs)
    assert np.allclose(np.load(out), wanted, atol=1e-5)
    said = capsys.readouterr().out
    first = ("oak", "ash", "elm", "yew", "fir")[wanted[0].argmax()]
    assert said.startswith(f"0  {first}  ")
    assert "12 inputs, " in said


def test_lines_from_standard_input_are_answered_as_they_come(model_path):
    lines = "\n".join(",".join(["0.5"] * 192) for _ in range(3))
    call = [sys.executable, "-m", "hedgerow.main", "infer", str(model_path), "--input", "-", "--threads", "1"]
    done = subprocess.run(call, input=lines, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4
    assert "3 inputs, 1 thread" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"1,2,3\n", "line 1: 3 numbers, but the model takes 192"),
        ("a.csv", b"x,y\n" + b"1," * 191 + b"oops\n", "line 2: could not convert string to float"),
        ("a.csv", b"x\n", "holds no line of numbers"),
        ("a.csv", b"\xff\xfe\x00", "no text of comma-separated numbers"),
        ("a.npz", b"PK", "is not a whole .npz file"),
        (
            "a.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 3, 8, 8), }",
            "",
        ),
        ("a.npy", b"", "cannot be read"),
        ("a.txt", b"1", "is no .npz, .npy or .csv file"),
    ],
)
def test_broken_inputs_are_one_sentence(model_path, tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert main(["infer", str(model_path), "--input", str(tmp_path / name)]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_inputs_of_another_shape_are_refused(model_path, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 9, 9), np.float32))
    assert main(["infer", str(model_path), "--input", str(tmp_path / "a.npy")]) == ExitCode.USAGE
    assert "(any, 3, 8, 8) and got (2, 3, 9, 9)" in capsys.readouterr().err


def damaged(kind: str, good: bytes) -> bytes:
    return {
        "empty": b"",
        "cut short": good[: len(good) // 2],
        "a flipped bit": good[:2000] + bytes([good[2000] ^ 4]) + good[2001:],
        "text": b"this is no model at all\n" * 40,
        "zeros": bytes(5000),
        "a zip": b"PK\x03\x04" + bytes(500),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "cut short", "a flipped bit", "text", "zeros", "a zip"])
def test_a_broken_model_is_one_sentence(model_path, tmp_path, capsys, kind):
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged(kind, model_path.read_bytes()))
    with pytest.raises(ModelError):
        DeviceModel(path)
    assert main(["infer", str(path), "--benchmark"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said


def test_a_huge_model_is_refused_before_it_is_read(tmp_path, capsys):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 10)
    assert main(["infer", str(path), "--benchmark"]) == ExitCode.USAGE
    assert "an ONNX model has at most" in capsys.readouterr().err


def test_a_missing_model(tmp_path, capsys):
    assert main(["infer", str(tmp_path / "no.onnx"), "--benchmark"]) == ExitCode.USAGE
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_threads_of_the_target_are_taken_where_there_are_cores(model_path, run_dir, tmp_path, monkeypatch):
    path = tmp_path / "zero.onnx"
    assert export(run_dir, "-o", path, "--target", "zero2w") == 0
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert DeviceModel(path).threads == 2
    assert DeviceModel(model_path).threads == 7
    assert DeviceModel(path, threads=1).threads == 1
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert DeviceModel(path).threads == 1


def test_a_foreign_model_runs_as_well(build, tmp_path):
    proto = onnx.load_model_from_string(build("plain").template)
    del proto.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(proto, path)
    model = DeviceModel(path, threads=1)
    inputs = build("plain").inputs
    answers = list(model.stream(inputs))
    assert np.allclose([answer.outputs for answer in answers], model.predict(inputs), atol=1e-6)
    assert model.label(answers[0].outputs) == str(answers[0].outputs.argmax())
    assert model.timing().calls == len(inputs) + 1
    assert model.metadata == {}


def test_a_run_that_may_only_be_read_is_exported_too(run_dir, tmp_path, monkeypatch):
    copied = tmp_path / "run"
    shutil.copytree(run_dir, copied)
    (copied / hedgerow.exporting.EXPORT_FACTS).unlink(missing_ok=True)
    (copied / hedgerow.exporting.EXPORT_FACTS).mkdir()  # cannot be written, whoever we are
    assert export(copied, "-o", tmp_path / "m.onnx") == ExitCode.DONE
    assert template_layout((tmp_path / "m.onnx").read_bytes()).num_parameters > 0
