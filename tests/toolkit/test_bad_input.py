"""What a person gets wrong: each time one clear sentence, the right exit code, no traceback, and soon."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow.runs import read_template
from hedgerow_codecs import Mask
from hedgerow_coordinator import RoundRecord, RunStore, ServerState, load_plan, open_run
from hedgerow_edge_client import ClientState
from hedgerow_export import template_parameters
from hedgerow_transport import (
    BlobRef,
    Broker,
    Manifest,
    MqttLink,
    Presence,
    Received,
    Topics,
    ask_broker,
    blob_digest,
    decode_message,
)
from hedgerow_transport.broker import find_mosquitto

NOBODY = "mqtt://127.0.0.1:1"
Run = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must end with a code, within 5 seconds; return what it said."""

    def run(code: ExitCode, *arguments: object, within_s: float = 5.0) -> str:
        capfd.readouterr()
        started = time.monotonic()
        found = main([str(argument) for argument in arguments])
        seconds = time.monotonic() - started
        captured = capfd.readouterr()
        assert found == code, captured
        assert "Traceback" not in captured.out + captured.err
        assert seconds < within_s
        if not captured.err:
            return captured.out
        sentence = captured.err.strip().splitlines()[-1]
        assert sentence.startswith(f"hedgerow {arguments[0]}: ")
        return sentence

    return run


@pytest.fixture
def project(initialised: Path, tmp_path: Path) -> Path:
    """Return a folder with plan, template and test data that a test may spoil."""
    return Path(shutil.copytree(initialised, tmp_path / "project"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (old, text.count(old))
    path.write_text(text.replace(old, new))


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


# -- the task file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def build_model(:\n", "line 1"),
        ("def build_model(): ...\ndef loss(o, t): ...\n", "load_data"),
        ("import numpy\nimport a_package_that_is_not_there\n" + "{rest}", "a_package_that_is_not_there"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_named(
    tmp_path: Path, refused: Run, broker: Broker, text: str, words: str
) -> None:
    task = tmp_path / "task.py"
    task.write_text(
        text.replace("{rest}", "def build_model(): ...\ndef load_data(d, c): ...\ndef loss(o, t): ...\n")
    )
    call = ("client", task, "--broker", broker.url, "--name", "a", "--state-dir", tmp_path / "state")
    said = refused(ExitCode.TASK, *call, within_s=30)
    assert str(task) in said
    assert words in said


def test_a_missing_task_file_is_named(tmp_path: Path, refused: Run) -> None:
    for call in (
        ("client", tmp_path / "no.py", "--broker", NOBODY, "--state-dir", tmp_path / "state"),
        ("init", tmp_path / "no.py", "--output", tmp_path),
    ):
        said = refused(ExitCode.TASK, *call)
        assert f"{tmp_path / 'no.py'}: there is no such file" in said


def test_a_device_without_samples_says_so(task: Path, tmp_path: Path, refused: Run, broker: Broker) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "empty").touch()
    call = ("client", task, "--broker", broker.url, "--data", data, "--name", "empty")
    said = refused(ExitCode.TASK, *call, "--state-dir", tmp_path / "state", within_s=30)
    assert "samples" in said


def publish_manifest(broker: Broker, namespace: str, *, state: str, layout: bytes, reason: str = "") -> None:
    """Publish the retained manifest of a run 'strange', which nobody leads."""
    manifest = Manifest(
        run="strange",
        state=state,
        round=1,
        attempt=1,
        version=0,
        layout=layout,
        mask=b"m" * 16,
        model=b"v" * 16,
        plan=BlobRef(kind="plan", digest=blob_digest(b"?"), size=1),
        steps=(),
        base_version=-1,
        cohort=b"",
        deadline_s=1.0,
        chunk_bytes=49152,
        reason=reason,
    )
    link = MqttLink(broker.url, client_id="publisher")
    link.connect()
    link.publish(Topics(namespace).manifest, manifest.encode(), retain=True, qos=1)
    link.close()


def test_a_client_of_a_run_that_is_over_leaves_with_its_end(
    initialised: Path, task: Path, tmp_path: Path, refused: Run, broker: Broker
) -> None:
    _, layout = read_template(load_plan(initialised / "plan.toml"))
    publish_manifest(broker, "over", state="failed", layout=layout.digest, reason="too few came")
    call = ("client", task, "--broker", broker.url, "--namespace", "over", "--name", "a", "--once")
    said = refused(ExitCode.RUN_FAILED, *call, "--state-dir", tmp_path / "state", within_s=40)
    assert said.endswith("run 'strange' failed: too few came\n")
    assert "joined" not in said


def test_a_second_client_of_a_name_leaves_before_it_loads_torch(
    task: Path, tmp_path: Path, refused: Run, broker: Broker
) -> None:
    topic = Topics("taken").presence("a")
    link = MqttLink(broker.url, client_id="the first", filters=[topic])
    link.connect()

    def answer() -> None:
        while True:
            event = link.events.get()
            if isinstance(event, Received):
                asker = decode_message(event.payload, Presence).profile["instance"]
                profile = {"instance": "0-earlier", "answers": asker}
                birth = Presence(client="a", session=1, online=True, profile=profile)
                link.publish(topic, birth.encode(), retain=True)
                return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    call = ("client", task, "--broker", broker.url, "--namespace", "taken", "--name", "a")
    said = refused(ExitCode.RUN_FAILED, *call, "--state-dir", tmp_path / "state", within_s=2)
    thread.join(5)
    link.close()
    assert "another client has the name 'a': give each device its own --name" in said


def test_a_model_of_another_layout_is_told_to_take_the_same_task(
    task: Path, tmp_path: Path, refused: Run, broker: Broker
) -> None:
    publish_manifest(broker, "other-layout", state="waiting", layout=b"l" * 16)
    call = ("client", task, "--broker", broker.url, "--namespace", "other-layout", "--name", "a")
    said = refused(ExitCode.RUN_FAILED, *call, "--state-dir", tmp_path / "state", within_s=30)
    assert "the model of this task is not the one of run 'strange'" in said
    assert "use the same task file" in said


def test_training_that_diverges_fails_the_run_with_the_reason(
    project: Path, task: Path, refused: Run, tmp_path: Path
) -> None:
    replace(project / "plan.toml", "learning_rate = 0.05", "learning_rate = 1e6")
    replace(project / "plan.toml", "epochs = 1", "epochs = 100")
    replace(project / "plan.toml", "min_clients = 2", "min_clients = 1")
    run_dir = tmp_path / "run"
    call = ("simulate", project / "plan.toml", "--task", task, "--clients", 1, "--run-dir", run_dir)
    said = refused(ExitCode.RUN_FAILED, *call, within_s=40)
    assert "the run failed: round 1 failed in 3 attempts" in said
    assert "client-0 says: " in said
    assert "learning_rate" in said
    with RunStore.open(run_dir, read_only=True) as store:
        assert [record.status for record in store.rounds()] == ["committed", "failed", "failed", "failed"]


# -- the broker -------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[Callable[[bytes], int]]:
    """Start a server that answers everybody with the same bytes; return its port."""
    sockets: list[socket.socket] = []

    def start(answer: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                sockets.append(connection)
                if answer:
                    connection.recv(1000)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for opened in sockets:
        opened.close()


def both(project: Path, task: Path, state: Path) -> list[tuple[object, ...]]:
    return [
        ("coordinator", project / "plan.toml", "--broker"),
        ("client", task, "--name", "a", "--state-dir", state, "--broker"),
    ]


def test_an_absent_broker_is_named_before_torch_is_loaded(
    project: Path, task: Path, tmp_path: Path, refused: Run
) -> None:
    calls = [*both(project, task, tmp_path / "state"), ("demo", "--output", tmp_path / "demo", "--broker")]
    for call in calls:
        said = refused(ExitCode.BROKER, *call, NOBODY)
        assert "127.0.0.1:1" in said
    assert not (tmp_path / "demo").exists()


def test_a_web_server_is_no_broker(
    project: Path, task: Path, tmp_path: Path, refused: Run, listener: Callable[[bytes], int]
) -> None:
    port = listener(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for call in both(project, task, tmp_path / "state"):
        said = refused(ExitCode.BROKER, *call, f"mqtt://127.0.0.1:{port}")
        assert "MQTT" in said


def test_a_port_that_keeps_silent_is_given_up(
    project: Path,
    task: Path,
    tmp_path: Path,
    refused: Run,
    listener: Callable[[bytes], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MqttLink.connect, "__defaults__", (1.0,))
    monkeypatch.setattr(ask_broker, "__defaults__", (1.0,))
    port = listener(b"")
    for call in both(project, task, tmp_path / "state"):
        said = refused(ExitCode.BROKER, *call, f"mqtt://127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in said


def test_a_wrong_password_is_refused_and_not_printed(
    project: Path, task: Path, tmp_path: Path, refused: Run
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    program = find_mosquitto()
    assert program is not None, "Mosquitto is missing: apt-get install mosquitto"
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                break
            except OSError:
                time.sleep(0.02)
        for call in both(project, task, tmp_path / "state"):
            said = refused(ExitCode.BROKER, *call, f"mqtt://me:hunter2@127.0.0.1:{port}")
            assert "password" in said
            assert "hunter2" not in said
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("url", ["nonsense", "http://localhost", "mqtt://", "mqtt://host:port"])
def test_a_broker_url_that_cannot_be_understood_shows_one_that_can(
    project: Path, task: Path, tmp_path: Path, refused: Run, url: str
) -> None:
    calls = [*both(project, task, tmp_path / "state"), ("demo", "--output", tmp_path / "demo", "--broker")]
    for call in calls:
        assert "mqtt://host:1883" in refused(ExitCode.USAGE, *call, url)
    assert not (project / "runs").exists()
    assert not (tmp_path / "state").exists()


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


@pytest.fixture(scope="module")
def committed_run(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with one committed round, made without training; only to be read."""
    directory = tmp_path_factory.mktemp("committed") / "run"
    plan = load_plan(initialised / "plan.toml")
    template, layout = read_template(plan)
    flat = template_parameters(template)
    with open_run(plan, directory=directory, template=template) as store:
        for version in (0, 1):
            state = ServerState(version=version, mask=Mask.dense(layout), weights=flat, published=flat)
            store.commit_round(RoundRecord(round=version, started=0.0, ended=1.0, seconds=1.0), state)
    return directory


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


# -- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a command whose arguments name FULL, a folder without room: a full tmpfs, or else a limit."""
    folder = tmp_path / "full"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(["mount", *options], check=False).returncode

    def limit() -> None:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(folder / "x") if word == "FULL" else str(word) for word in arguments]
        command = [sys.executable, "-m", "hedgerow.main", *words]
        return subprocess.run(
            command, preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False
        )

    if mounted:
        (folder / "ballast").write_bytes(bytes(8192))
    yield run
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_a_coordinator_with_a_sentence(
    project: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", "FULL")
    assert ended.returncode == ExitCode.STORAGE, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("hedgerow coordinator: cannot write ")


def test_a_full_disk_stops_a_client_with_a_sentence(
    task: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("client", task, "--broker", NOBODY, "--name", "a", "--state-dir", "FULL")
    assert ended.returncode == ExitCode.STORAGE, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("hedgerow client: ")


def test_a_full_disk_stops_an_export_with_a_sentence(
    committed_run: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("export", committed_run, "-o", "FULL")
    assert ended.returncode == ExitCode.RUN_FAILED, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "No space left" in ended.stderr or "too large" in ended.stderr


# -- a reader that leaves ---------------------------------------------------------------------------------


def test_a_closed_stdout_is_no_fault() -> None:
    for arguments in (["--help"], ["doctor", "--help"]):
        command = [sys.executable, "-m", "hedgerow.main", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(timeout=20)
        assert said == b""
        assert process.returncode == 0


def test_a_coordinator_goes_on_when_nobody_reads_its_lines(project: Path) -> None:
    command = [sys.executable, "-m", "hedgerow.main", "coordinator", str(project / "plan.toml")]
    process = subprocess.Popen([*command, "--broker", NOBODY], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=20)
    # It came as far as the broker that is not there.
    assert process.returncode == ExitCode.BROKER
    assert said.startswith(b"hedgerow coordinator: ")
    assert b"Traceback" not in said
