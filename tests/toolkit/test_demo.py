"""The demo as a newcomer meets it: it shows what it should, and leaves nothing behind when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import psutil
import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow_transport import Broker, MqttLink, Received

# Torch is started several times, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

SMALL = ("--rounds", "3", "--clients", "2", "--no-compare")
KINDS = {
    "accuracy": float,
    "dense_accuracy": type(None),
    "density": float,
    "rounds": int,
    "clients": int,
    "uplink_bytes": int,
    "downlink_bytes": int,
    "dense_uplink_bytes": type(None),
    "dense_downlink_bytes": type(None),
    "wall_s": float,
    "onnx_path": str,
    "onnx_bytes": int,
    "onnx_max_abs_error": float,
    "onnx_top1_agreement": float,
    "broadcast_bytes": int,
    "bytes_by_kind": dict,
}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `hedgerow demo` in a folder of its own, its temporary files below it."""
    (tmp_path / "tmp").mkdir()
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, path: str | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
        if path is not None:
            environment["PATH"] = path
        process = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.main", "demo", "--output", str(tmp_path / "demo"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
            process_group=0,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what} within {timeout_s:g} s"
        time.sleep(0.05)


def mentions(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line and process.pid != os.getpid():
            lines.append(line)
    return lines


def listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def leftovers(folder: Path) -> list[str]:
    """Return our temporary files; torch keeps a cache of its own there."""
    return [path.name for path in (folder / "tmp").iterdir() if "hedgerow" in path.name]


def broker_port(folder: Path) -> int:
    config = (folder / "demo" / "broker" / "mosquitto.conf").read_text()
    return int(config.split("listener ")[1].split()[0])


def in_training(folder: Path) -> bool:
    logs = [folder / "demo" / "logs" / f"client-{number}.log" for number in (0, 1)]
    return all(log.is_file() and "round 1: training" in log.read_text() for log in logs)


def test_a_small_demo_says_what_it_found(start: Start, tmp_path: Path) -> None:
    process = start(*SMALL, "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == ExitCode.DONE, err
    facts = json.loads(out)
    assert {key: type(value) for key, value in facts.items()} == KINDS
    assert (facts["rounds"], facts["clients"]) == (3, 2)
    assert facts["density"] == pytest.approx(0.2, abs=1e-4)
    assert facts["onnx_top1_agreement"] == 1.0
    assert facts["onnx_bytes"] == (tmp_path / "demo" / "model.onnx").stat().st_size
    assert sum(n for kind, n in facts["bytes_by_kind"].items() if kind.startswith("sent")) > 0
    session = onnxruntime.InferenceSession(
        tmp_path / "demo" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].shape[1:] == [1, 8, 8]
    # What a person reads is on stderr, with a line for each round.
    assert [line.split()[1] for line in err.splitlines() if line.startswith("round ")] == [
        "1/3",
        "2/3",
        "3/3",
    ]
    assert "Traceback" not in err
    assert mentions(tmp_path) == []
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("whole_group", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ctrl_c_in_a_round_leaves_nothing_behind(start: Start, tmp_path: Path, whole_group: bool) -> None:
    process = start(*SMALL, "--rounds", "500")
    wait_until(lambda: in_training(tmp_path), "training")
    children, port = descendants(process), broker_port(tmp_path)
    assert listens(port)
    # Coordinator, broker, two clients with a trainer each.
    assert len(children) >= 6
    started = time.monotonic()
    # A terminal sends Ctrl-C to the whole group.
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert time.monotonic() - started < 5
    assert out.splitlines()[-1] == (
        f"stopped; all processes have ended, what there was is kept in {tmp_path / 'demo'}"
    )
    assert err == ""
    assert psutil.wait_procs(children, timeout=0)[1] == []
    assert mentions(tmp_path) == []
    assert not listens(port)
    assert leftovers(tmp_path) == []
    for number in (0, 1):
        said = (tmp_path / "demo" / "logs" / f"client-{number}.log").read_text()
        assert "stopped; the state is kept in" in said.splitlines()[-1]


def test_ctrl_c_while_the_model_is_exported_stops_at_once(start: Start, tmp_path: Path) -> None:
    process = start(*SMALL)
    wait_until(lambda: any("trainer" in line for line in mentions(tmp_path)), "trainer")
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert time.monotonic() - started < 5
    assert "stopped; all processes have ended" in out
    assert mentions(tmp_path) == []


def test_a_demo_that_is_killed_takes_its_children_with_it(start: Start, tmp_path: Path) -> None:
    # No Mosquitto on this PATH, nor where Debian keeps it: the embedded broker.
    hide = "import hedgerow_transport.broker as b; b.find_mosquitto = lambda: None\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "embedded.py").write_text(
        hide + "import sys\nfrom hedgerow.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, str(tmp_path / "site" / "embedded.py"), "demo", *SMALL, "--rounds", "500"),
            *("--output", str(tmp_path / "demo")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_until(lambda: in_training(tmp_path), "training")
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("embedded_broker" in " ".join(child.cmdline()) for child in children)
        assert len(children) >= 6
    finally:
        process.kill()
        process.wait()
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert mentions(tmp_path) == []


@pytest.mark.slow
def test_a_demo_on_somebody_s_broker_leaves_no_retained_message(
    start: Start, tmp_path: Path, broker: Broker
) -> None:
    process = start(*SMALL, "--rounds", "2", "--broker", broker.url)
    out, err = process.communicate(timeout=200)
    assert process.returncode == ExitCode.DONE, out + err
    link = MqttLink(broker.url, client_id="looker", filters=["hedgerow/1/#"])
    link.connect()
    try:
        time.sleep(0.5)
        events = []
        while not link.events.empty():
            events.append(link.events.get())
        left = [event.topic for event in events if isinstance(event, Received)]
        assert [topic for topic in left if "/demo-" in topic] == []
    finally:
        link.close()


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    command = [sys.executable, "-m", "hedgerow.main", "demo", "--output", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr == f"hedgerow demo: {tmp_path} is there already: give --output another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
