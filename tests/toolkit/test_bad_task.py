"""Task files that cannot be used, and runs that a client cannot take part in: one sentence each."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.toolkit.conftest import NOBODY, Run, replace

from hedgerow.exit_codes import ExitCode
from hedgerow.runs import read_template
from hedgerow_coordinator import RunStore, load_plan
from hedgerow_transport import (
    BlobRef,
    Broker,
    Manifest,
    MqttLink,
    Presence,
    Received,
    Topics,
    blob_digest,
    decode_message,
)

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
