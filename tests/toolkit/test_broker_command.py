"""`hedgerow broker run` and `config`: real processes, a real Mosquitto."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow_coordinator import load_plan
from hedgerow_transport import Manifest, MqttLink, Received, Topics, find_mosquitto, probe_broker

MANIFEST = Topics("farm").manifest


@pytest.fixture
def directory(open_directory_factory: Callable[[], Path]) -> Path:
    return open_directory_factory()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def open_link(url: str, *filters: str) -> MqttLink:
    link = MqttLink(url, client_id=f"test-{os.getpid()}-{time.monotonic_ns()}", filters=filters)
    link.connect(5.0)
    link.events.get(timeout=1.0)
    return link


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_a_signal_and_keeps_what_was_retained(
    directory: Path, start_service: Callable[..., Any], number: signal.Signals
) -> None:
    call = ("--port", free_port(), "--directory", directory)
    service = start_service(*call)
    url = service.wait_for(r"URL for coordinator and clients: (mqtt://127\.0\.0\.1:\d+)\n")[1]
    assert "there are no users: whoever reaches it may take part" in service.said
    mosquitto = psutil.Process(service.process.pid).children()[0]
    link = open_link(url)
    link.publish(MANIFEST, b"kept", retain=True, qos=1)
    assert link.flush(5.0)
    link.close()
    assert service.end(number) == ExitCode.INTERRUPTED
    assert service.said.splitlines()[-1].endswith("  stopped")
    assert "Traceback" not in service.said
    assert not mosquitto.is_running()

    again = start_service(*call)
    again.wait_for("URL for coordinator")
    link = open_link(url, MANIFEST)
    event = link.events.get(timeout=5.0)
    link.close()
    assert isinstance(event, Received)
    assert event.payload == b"kept"


def test_a_broker_that_dies_is_told_with_the_code_for_brokers(
    directory: Path, start_service: Callable[..., Any]
) -> None:
    service = start_service("--port", free_port(), "--directory", directory)
    service.wait_for("URL for coordinator")
    psutil.Process(service.process.pid).children()[0].kill()
    assert service.process.wait(10) == ExitCode.BROKER
    assert service.said.endswith("hedgerow broker: Mosquitto has ended by itself; see what it said above\n")


def test_users_make_it_listen_everywhere_without_a_warning(
    directory: Path, start_service: Callable[..., Any]
) -> None:
    (directory / "passwords").write_text("")
    port = free_port()
    service = start_service(
        "--port", port, "--directory", directory, "--password-file", directory / "passwords"
    )
    service.wait_for("URL for coordinator")
    assert f"listens on all addresses, port {port}" in service.said
    assert f"clients: mqtt://{socket.gethostname()}:{port}\n" in service.said
    assert "arning" not in service.said


def test_limits_reach_the_broker(directory: Path, start_service: Callable[..., Any]) -> None:
    service = start_service("--port", free_port(), "--directory", directory, "--max-packet-bytes", 131_072)
    url = service.wait_for(r"clients: (\S+)")[1]
    assert probe_broker(url).max_packet_bytes == 131_072


def test_a_coordinator_cuts_chunks_that_fit_the_broker(
    directory: Path, start_service: Callable[..., Any], initialised: Path, tmp_path: Path
) -> None:
    service = start_service("--port", free_port(), "--directory", directory, "--max-packet-bytes", 20_000)
    url = service.wait_for(r"clients: (\S+)")[1]
    call = ("coordinator", initialised / "plan.toml", "--broker", url, "--run-dir", tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-m", "hedgerow.main", *map(str, call)], stdout=subprocess.PIPE, text=True
    ) as leading:
        try:
            link = open_link(url, Topics("default").manifest)
            event = link.events.get(timeout=20.0)
            link.close()
        finally:
            leading.terminate()
        said = leading.stdout.read() if leading.stdout else ""
    assert isinstance(event, Received)
    assert Manifest.decode(event.payload).chunk_bytes == 19_456
    assert "the broker takes packets of 20,000 bytes: sending chunks of 19,456 bytes" in said


def test_init_writes_the_chunks_of_a_preset(task: Path, tmp_path: Path) -> None:
    assert main(["init", str(task), "--output", str(tmp_path), "--preset", "aws-iot"]) == 0
    assert load_plan(tmp_path / "plan.toml").transport.chunk_bytes == 122_880
    assert "# AWS IoT Core takes payloads of at most 128 kB" in (tmp_path / "plan.toml").read_text()


def test_a_configuration_for_a_service_is_written_and_mosquitto_takes_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    passwords = directory / "passwords"
    passwords.write_text("")
    call = ["broker", "config", "--directory", str(directory), "--port", str(port), "--bind", "127.0.0.1"]
    assert main([*call, "--password-file", str(passwords)]) == 0
    said = capsys.readouterr().out
    assert f"start it with: mosquitto -c {directory}/mosquitto.conf" in said
    assert f"and to write {directory}/retained" in said
    text = (directory / "mosquitto.conf").read_text()
    assert f"acl_file {directory}/acl\n" in text
    assert "user coordinator\n" in (directory / "acl").read_text()
    program = find_mosquitto()
    assert program is not None
    with subprocess.Popen([program, "-c", str(directory / "mosquitto.conf")], stderr=subprocess.PIPE) as run:
        try:
            give_up_at = time.monotonic() + 5
            while (
                "does not let a client without a user name in"
                not in probe_broker(f"mqtt://127.0.0.1:{port}").reason
            ):
                assert run.poll() is None
                assert time.monotonic() < give_up_at
                time.sleep(0.02)
        finally:
            run.terminate()
    # Written again over its own, and over nobody else's.
    assert main(call) == 0
    (directory / "mosquitto.conf").write_text("listener 1883\n")
    assert main(call) == ExitCode.USAGE
    assert "was not written by Hedgerow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bind", "0.0.0.0"], "anybody in the network could take part: give --keys or --password-file"),
        (["--cert", "FILE"], "TLS needs both --cert and --key"),
        (["--ca", "FILE"], "client certificates need TLS"),
        (["--cert", "FILE", "--key", "FILE", "--crl", "FILE"], "needs the authority's certificate"),
        (["--key", "/no/such/key"], "--key /no/such/key cannot be read"),
        (["--port", "70000"], "port must be from 1 to 65535, not 70000"),
        (["--max-packet-bytes", "10"], "max_packet_bytes must be from 4096"),
        (["--password-file", "FILE", "--coordinator-user", "a b"], "'a b' cannot be a user"),
    ],
)
def test_wrong_calls_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (tmp_path / "file").write_text("")
    arguments = [str(tmp_path / "file") if word == "FILE" else word for word in arguments]
    for action in ("run", "config"):
        call = ["broker", action, "--directory", str(tmp_path / "broker"), *arguments]
        assert main(call) == ExitCode.USAGE
        assert sentence in capsys.readouterr().err


def test_a_taken_port_is_named(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["broker", "run", "--directory", str(directory), "--port", str(port)]) == ExitCode.BROKER
    assert f"port {port} cannot be used (Address already in use)" in capsys.readouterr().err


def test_without_mosquitto_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow_transport.find_mosquitto", lambda: None)
    assert main(["broker", "run", "--directory", str(tmp_path)]) == ExitCode.BROKER
    assert "apt-get install mosquitto" in capsys.readouterr().err
