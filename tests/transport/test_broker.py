"""The broker launcher and the probe: real processes on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow_transport import (
    Broker,
    BrokerError,
    BrokerFacts,
    BrokerMissing,
    MosquittoConfig,
    probe_broker,
    start_broker,
)
from hedgerow_transport import broker as broker_module


def port_of(broker: Broker) -> int:
    return int(broker.url.partition("?")[0].rpartition(":")[2])


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    give_up_at = time.monotonic() + seconds
    while runs(pid):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def test_mosquitto_starts_on_loopback_only_and_ends(mosquitto: Callable[..., Broker], tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        assert broker.name == "mosquitto"
        assert probe_broker(broker.url) == BrokerFacts(
            reachable=True, protocol="5", max_packet_bytes=1_114_112
        )
        listening = subprocess.run(
            ["cat", f"/proc/{broker.pid}/net/tcp"], capture_output=True, text=True
        ).stdout
        assert f"0100007F:{port_of(broker):04X} 00000000:0000 0A" in listening
        assert f"00000000:{port_of(broker):04X} " not in listening
    assert not broker.alive
    assert not runs(broker.pid)
    broker.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_mosquitto_started_by_root_does_not_run_as_root(broker: Broker) -> None:
    assert os.stat(f"/proc/{broker.pid}").st_uid != 0


def test_it_works_from_a_directory_closed_to_others(mosquitto: Callable[..., Broker], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with mosquitto(closed / "broker") as broker:
        assert probe_broker(broker.url).reachable


def test_a_busy_port_is_named(broker: Broker, tmp_path: Path) -> None:
    port = port_of(broker)
    with pytest.raises(BrokerError, match=f"port {port} cannot be used \\(Address already in use\\)"):
        start_broker(directory=tmp_path, port=port)
    with pytest.raises(BrokerError, match="port 70000 is no port"):
        start_broker(directory=tmp_path, port=70_000)


def test_a_broker_that_dies_at_start_shows_its_log(
    mosquitto: Callable[..., Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MosquittoConfig, "render", lambda config, version: "no_such_option 1\n")
    with pytest.raises(BrokerError, match=r"\(mosquitto\) ended at its start: .*no_such_option"):
        mosquitto(tmp_path)


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match="cannot write to"):
        start_broker(directory=tmp_path / "file" / "x")


def test_without_any_broker_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BrokerMissing, match=r"apt-get install mosquitto.*pip install amqtt"):
        start_broker(directory=tmp_path)
    with pytest.raises(BrokerMissing, match="apt-get install mosquitto"):
        start_broker(directory=tmp_path, prefer="mosquitto")
    with pytest.raises(BrokerMissing, match="pip install amqtt"):
        start_broker(directory=tmp_path, prefer="embedded")


@pytest.mark.parametrize("prefer", ["mosquitto", "embedded"])
def test_a_killed_parent_takes_the_broker_along(prefer: str, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from hedgerow_transport import start_broker\n"
        f"b = start_broker(directory=Path({str(tmp_path)!r}), prefer={prefer!r}); print(b.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.send_signal(signal.SIGKILL)
    assert gone_within(pid, 3.0)


def test_a_broker_that_ignores_sigterm_is_killed(mosquitto: Callable[..., Broker], tmp_path: Path) -> None:
    broker = mosquitto(tmp_path)
    os.kill(broker.pid, signal.SIGSTOP)
    started = time.monotonic()
    broker.close()
    assert 2.5 < time.monotonic() - started < 4.0
    assert not runs(broker.pid)


def test_the_probe_explains_what_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        facts = probe_broker(f"mqtt://127.0.0.1:{port}", timeout_s=0.4)
    assert facts == BrokerFacts(
        reachable=False,
        reason=f"127.0.0.1:{port} takes connections but does not answer like an MQTT broker: "
        "is it the right port?",
    )
    assert probe_broker(f"mqtt://127.0.0.1:{port}").reason == (
        f"nothing listens at 127.0.0.1:{port} (connection refused): is the broker running?"
    )
    assert "is not known: check its name" in probe_broker("mqtt://no-such-host.invalid").reason
    assert "without mqtt:// cannot be understood" in probe_broker("localhost:1883").reason
