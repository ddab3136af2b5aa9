"""Brokers that are away, silent, closed or none: one sentence each."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.toolkit.conftest import NOBODY, Run

from hedgerow.exit_codes import ExitCode
from hedgerow_transport import (
    MqttLink,
    ask_broker,
)
from hedgerow_transport.broker import find_mosquitto

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
