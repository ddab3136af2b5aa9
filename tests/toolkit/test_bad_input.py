"""Plans, templates, data, names and paths that cannot be used: one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.toolkit.conftest import NOBODY, Run, replace

from hedgerow.exit_codes import ExitCode
from hedgerow_coordinator import RunStore
from hedgerow_edge_client import ClientState
from hedgerow_transport import (
    Broker,
)

# -- the plan ---------------------------------------------------------------------------------------------


def test_an_unknown_key_of_the_plan_is_named_with_line_and_nearest(project: Path, refused: Run) -> None:
    replace(project / "plan.toml", "quorum = 0.6", "qorum = 0.6")
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert "plan.toml, line 17: [cohort] qorum is not a known key; did you mean quorum?" in said


def test_a_wrong_type_in_the_plan_is_named(project: Path, refused: Run) -> None:
    replace(project / "plan.toml", "rounds = 3", 'rounds = "three"')
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert '[run] rounds must be a whole number, not the text "three"' in said


def test_a_missing_plan_is_named(tmp_path: Path, refused: Run) -> None:
    said = refused(ExitCode.USAGE, "coordinator", tmp_path / "plan.toml")
    assert said.endswith("plan.toml: there is no such file")


def test_a_plan_that_is_no_toml_is_named_with_its_line(project: Path, refused: Run) -> None:
    (project / "plan.toml").write_text("[run]\nname = \n")
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml")
    assert "plan.toml, line 2: not valid TOML" in said


# -- the template and the test data -----------------------------------------------------------------------


def test_a_missing_template_says_what_writes_it(project: Path, refused: Run) -> None:
    (project / "template.onnx").unlink()
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert "template.onnx is missing: `hedgerow init TASK` writes it" in said


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_template_that_is_no_whole_model_is_refused(project: Path, refused: Run, damage: str) -> None:
    path = project / "template.onnx"
    data = path.read_bytes()
    path.write_bytes(
        {"half": data[: len(data) // 2], "empty": b"", "text": b"# a picture of a cat\n"}[damage]
    )
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert said.startswith(f"hedgerow coordinator: [model] template {path} cannot be used: ")
    assert not (project / "runs").exists()


def test_a_density_that_the_model_cannot_have_is_refused_before_a_run_is_made(
    project: Path, refused: Run
) -> None:
    replace(project / "plan.toml", "\ndensity = ", "\ndensity = 0.01  # ")
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert "the least possible density is 0.3488" in said
    assert not (project / "runs").exists()


def test_missing_test_data_is_named(project: Path, refused: Run) -> None:
    (project / "evaluate.npz").unlink()
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert said == f"hedgerow coordinator: [evaluate] data {project / 'evaluate.npz'} is missing"
    assert not (project / "runs").exists()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_cut_test_data_is_named(project: Path, refused: Run, keep: float) -> None:
    path = project / "evaluate.npz"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", NOBODY)
    assert f"{path} is not a whole .npz file" in said


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros(3), "y": np.zeros(3)}, "holds no array `inputs`, but x, y"),
        ({"inputs": np.zeros((3, 8), "f4"), "targets": np.zeros(2, "i8")}, "the same number of rows"),
        ({"inputs": np.zeros((0, 8), "f4"), "targets": np.zeros(0, "i8")}, "at least 1"),
        ({"inputs": np.float32(1), "targets": np.int64(1)}, "shape ()"),
        ({"inputs": np.array([{}, {}]), "targets": np.zeros(2, "i8")}, "Object arrays cannot be loaded"),
        ({"inputs": np.zeros((3, 7), "f4"), "targets": np.zeros(3, "i8")}, "does not fit the model"),
        ({"inputs": np.zeros((3, 8), "f4"), "targets": np.full(3, 3)}, "tells 3 classes apart"),
        (
            {"inputs": np.zeros((40, 8), "f4"), "targets": np.r_[np.zeros(39, int), 9]},
            "tells 3 classes apart",
        ),
    ],
)
def test_test_data_that_does_not_fit_is_refused_before_the_first_round(
    project: Path, refused: Run, broker: Broker, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(project / "evaluate.npz", **arrays)
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", broker.url)
    assert words in said
    assert said.startswith("hedgerow coordinator: [evaluate] data ")


def test_an_unknown_metric_is_refused_with_the_nearest(project: Path, refused: Run, broker: Broker) -> None:
    replace(project / "plan.toml", 'metric = "accuracy"', 'metric = "acuracy"')
    said = refused(ExitCode.USAGE, "coordinator", project / "plan.toml", "--broker", broker.url)
    assert "[evaluate] metric" in said
    assert "did you mean 'accuracy'?" in said


# -- names, numbers and folders ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Pi 4", "../../etc", "a/b", "", "ö", "x" * 33, "-a", "#", "+"])
def test_a_name_with_other_characters_is_refused(task: Path, tmp_path: Path, refused: Run, name: str) -> None:
    said = refused(
        ExitCode.USAGE, "client", task, "--broker", NOBODY, f"--name={name}", "--state-dir", tmp_path / "s"
    )
    assert "use 1 to 32 of a-z, 0-9" in said
    said = refused(ExitCode.USAGE, "client", task, "--broker", NOBODY, f"--namespace={name}", "--name", "a")
    assert "use 1 to 32 of a-z, 0-9" in said
    said = refused(ExitCode.USAGE, "init", task, "--output", tmp_path / "new", f"--name={name}")
    assert "must be 1 to 32 of a-z" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--clients", 0),
        ("demo", "--clients", 21),
        ("demo", "--rounds", 1),
        ("demo", "--seed", -1),
        ("init", "{task}", "--clients", 0),
        ("init", "{task}", "--rounds", 0),
        ("simulate", "{plan}", "--task", "{task}", "--clients", 0),
        ("simulate", "{plan}", "--task", "{task}", "--clients", 1, "--workers", 0),
        ("simulate", "{plan}", "--task", "{task}"),
        ("client", "{task}", "--broker", NOBODY, "--threads", 0),
        ("client", "{task}", "--broker", NOBODY, "--data", "{task}"),
        ("client", "{task}", "--broker", NOBODY, "--data", "no-such-folder"),
        ("init", "{task}", "--data", "no-such-folder"),
        ("simulate", "{plan}", "--task", "{task}", "--data", "no-such-folder"),
    ],
)
def test_a_number_out_of_range_or_no_folder_is_refused(
    initialised: Path,
    task: Path,
    tmp_path: Path,
    refused: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(word).format(task=task, plan=initialised / "plan.toml") for word in arguments]
    said = refused(ExitCode.USAGE, *words)
    assert words[-2].removeprefix("--").removeprefix("clients").removeprefix("task") in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_no_client_can_have_is_named(
    initialised: Path, task: Path, tmp_path: Path, refused: Run
) -> None:
    for name in ("client-0", "Client 1", ".git", "__pycache__"):
        (tmp_path / "data" / name).mkdir(parents=True)
    said = refused(
        ExitCode.USAGE, "simulate", initialised / "plan.toml", "--task", task, "--data", tmp_path / "data"
    )
    assert "Client 1" in said
    assert ".git" not in said


def test_a_run_directory_that_cannot_be_made_is_named(project: Path, refused: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    call = ("coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in refused(ExitCode.STORAGE, *call)


def test_a_state_folder_that_cannot_be_made_is_named(task: Path, refused: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    call = ("client", task, "--broker", NOBODY, "--name", "a", "--state-dir", tmp_path / "file" / "state")
    assert str(tmp_path / "file") in refused(ExitCode.STORAGE, *call)


def test_a_run_that_another_coordinator_leads_is_left_alone(project: Path, refused: Run) -> None:
    call = ("coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", project / "run")
    refused(ExitCode.BROKER, *call)
    with RunStore.open(project / "run"):
        assert "process" in refused(ExitCode.STORAGE, *call)


def test_a_run_of_another_plan_says_what_differs(project: Path, refused: Run) -> None:
    call = ("coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", project / "run")
    refused(ExitCode.BROKER, *call)
    replace(project / "plan.toml", "batch_size = 32", "batch_size = 16")
    said = refused(ExitCode.STORAGE, *call)
    assert "batch_size" in said
    assert "begin a new run in another directory" in said


def test_a_state_folder_in_use_is_left_alone(task: Path, refused: Run, tmp_path: Path) -> None:
    state = ClientState(tmp_path / "state")
    try:
        call = ("client", task, "--broker", NOBODY, "--name", "a", "--state-dir", tmp_path / "state")
        assert "is used by another running client" in refused(ExitCode.STORAGE, *call)
    finally:
        state.close()


def test_files_of_an_earlier_init_are_not_overwritten(initialised: Path, task: Path, refused: Run) -> None:
    before = {path: path.read_bytes() for path in initialised.iterdir() if path.is_file()}
    said = refused(ExitCode.USAGE, "init", task, "--output", initialised)
    assert "--force replaces it" in said
    assert {path: path.read_bytes() for path in before} == before


# -- export -----------------------------------------------------------------------------------------------


def test_an_export_before_any_round_says_so(project: Path, refused: Run, tmp_path: Path) -> None:
    run = project / "run"
    refused(ExitCode.BROKER, "coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", run)
    said = refused(ExitCode.USAGE, "export", run, "-o", tmp_path / "m.onnx")
    assert said == f"hedgerow export: {run} has no committed round yet"
    assert not (tmp_path / "m.onnx").exists()


def test_an_export_onto_a_path_that_cannot_be_written_is_refused(
    committed_run: Path, refused: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "m.onnx", tmp_path / "file" / "m.onnx"):
        said = refused(ExitCode.USAGE, "export", committed_run, "-o", path)
        assert str(path) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"", "is not a whole .npz file"),
        ({"x": np.zeros((4, 8), "f4")}, "holds no array `inputs`, but x"),
        ({"inputs": np.zeros((4, 7), "f4")}, "7"),
        ({"inputs": np.zeros((0, 8), "f4")}, "0"),
    ],
)
def test_an_export_with_data_that_does_not_fit_is_refused(
    committed_run: Path, refused: Run, tmp_path: Path, content: object, words: str
) -> None:
    data = tmp_path / "inputs.npz"
    if isinstance(content, bytes):
        data.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(data, **content)
    call = ("export", committed_run, "-o", tmp_path / "m.onnx", "--data", data)
    assert words in refused(ExitCode.USAGE, *call, within_s=10)
    assert not (tmp_path / "m.onnx").exists()


def test_an_export_of_no_run_says_so(refused: Run, tmp_path: Path) -> None:
    assert "there is no run in" in refused(ExitCode.STORAGE, "export", tmp_path / "nothing")
