"""A federation of real processes over a real Mosquitto, through everything that can befall it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import psutil
import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow_coordinator import RoundRecord, RunStore, StoreError
from hedgerow_transport import Broker, BrokerMissing, start_broker

# Torch is started five times, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)
ROUNDS = 12
PLAN_EDITS = {
    "min_clients = 2": "min_clients = 3",
    "grace_s = 30.0": "grace_s = 2.0",
    "deadline_s = 600.0": "deadline_s = 30.0",
}


class Command:
    """A `hedgerow` command as a process, with what it says in a file."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        self._output = log.open("ab")
        self._start_at = log.stat().st_size
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.main", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        """What this process has said, not those before it with the same log."""
        return self.log.read_bytes()[self._start_at :].decode()

    def trainer(self) -> psutil.Process | None:
        children = psutil.Process(self.pid).children(recursive=True)
        return children[0] if children else None

    def wait_for(self, pattern: str, *, timeout_s: float = 60.0) -> None:
        found = re.compile(pattern)
        wait_until(lambda: found.search(self.said) is not None, f"{pattern!r} in {self.log.name}", timeout_s)

    def end(self, number: signal.Signals, *, timeout_s: float) -> tuple[int, float]:
        """Send a signal; return exit code and seconds."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        return code, time.monotonic() - started

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what} within {timeout_s:g} s"
        time.sleep(0.02)


def records(run_dir: Path) -> list[RoundRecord]:
    try:
        with RunStore.open(run_dir, read_only=True) as store:
            return store.rounds()
    except StoreError:
        return []


def committed(run_dir: Path) -> int:
    return max((r.round for r in records(run_dir) if r.status == "committed"), default=0)


@dataclass
class Story:
    """What was seen while the federation ran."""

    run_dir: Path
    facts: dict[str, float] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    killed_in_round: int = 0
    coordinator_maps: str = ""


def mosquitto(directory: Path, port: int = 0) -> Broker:
    try:
        return start_broker(directory=directory, prefer="mosquitto", port=port)
    except BrokerMissing as error:
        pytest.fail(f"Mosquitto is missing: apt-get install mosquitto ({error})")


@pytest.fixture(scope="module")
def plan(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plan for three clients, beside its template and test data."""
    folder = tmp_path_factory.mktemp("federation")
    for source in initialised.iterdir():
        if source.is_file():
            (folder / source.name).write_bytes(source.read_bytes())
    path = folder / "plan.toml"
    text = path.read_text()
    for old, new in (PLAN_EDITS | {"rounds = 3": f"rounds = {ROUNDS}"}).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def story(plan: Path, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run one federation: a client, the coordinator and the broker are killed, others stopped and started."""
    folder = tmp_path_factory.mktemp("story")
    data = folder / "data"
    data.mkdir()
    (data / "slow").touch()
    broker = mosquitto(folder / "broker")
    port = int(broker.url.rsplit(":", 1)[1])
    told = Story(run_dir=folder / "run")
    commands: list[Command] = []

    def coordinator() -> Command:
        call = ("coordinator", plan, "--broker", broker.url, "--run-dir", told.run_dir)
        commands.append(Command(folder / "coordinator.log", *call))
        return commands[-1]

    def client(name: str) -> Command:
        call = ("client", task, "--broker", broker.url, "--data", data, "--name", name, "--threads", 1)
        commands.append(Command(folder / f"{name}.log", *call, "--state-dir", folder / name, "--once"))
        return commands[-1]

    def check_orphan(trainer: psutil.Process | None, of: str) -> None:
        assert trainer is not None
        _, alive = psutil.wait_procs([trainer], timeout=3)
        told.orphans += [f"trainer of {of}" for _ in alive]

    try:
        led = coordinator()
        led.wait_for("waiting for clients")
        told.facts["idle coordinator MiB"] = psutil.Process(led.pid).memory_info().rss / 2**20
        a, b, c = client("a"), client("b"), client("c")

        # c loses its power in mid-round.
        c.wait_for("round 2: training")
        told.killed_in_round, trainer = 2, c.trainer()
        c.end(signal.SIGKILL, timeout_s=5)
        check_orphan(trainer, "c, killed")
        wait_until(lambda: committed(told.run_dir) >= 3, "round 3 without c")

        # The coordinator is killed in mid-round, and started again.
        a.wait_for("round 4: training")
        told.coordinator_maps = Path(f"/proc/{led.pid}/maps").read_text()
        led.end(signal.SIGKILL, timeout_s=5)
        told.facts["committed at the kill"] = committed(told.run_dir)
        led = coordinator()
        wait_until(lambda: committed(told.run_dir) >= 5, "round 5 after the coordinator's kill")

        # The broker is killed in mid-round, and started again on its port.
        os.kill(broker.pid, signal.SIGKILL)
        broker.close()
        broker = mosquitto(folder / "broker", port)
        at_broker = committed(told.run_dir)
        wait_until(lambda: committed(told.run_dir) >= at_broker + 2, "rounds with the new broker")

        # Somebody presses Ctrl-C at b in mid-round, and starts it again.
        b.wait_for(f"round {committed(told.run_dir) + 1}: training")
        trainer = b.trainer()
        told.codes["b, SIGINT"], told.facts["b, SIGINT"] = b.end(signal.SIGINT, timeout_s=15)
        told.said["b, SIGINT"] = b.said
        check_orphan(trainer, "b, interrupted")
        # The same at the coordinator, by a service manager.
        code, seconds = led.end(signal.SIGTERM, timeout_s=15)
        told.codes["coordinator, SIGTERM"], told.facts["coordinator, SIGTERM"] = code, seconds
        told.said["coordinator, SIGTERM"] = led.said
        b, led = client("b"), coordinator()

        for name, command in {"coordinator": led, "a": a, "b": b}.items():
            told.codes[name] = command.process.wait(60)
            told.said[name] = command.said
        yield told
    finally:
        for command in commands:
            if sys.exc_info()[0] is not None:
                print(f"--- {command.log.name}\n{command.said}")
            command.close()
        broker.close()


def test_the_run_ends_and_everybody_leaves_with_code_0(story: Story) -> None:
    assert [story.codes[name] for name in ("coordinator", "a", "b")] == [0, 0, 0]
    assert f"finished: {ROUNDS} rounds" in story.said["coordinator"]
    for name in ("a", "b"):
        assert re.search(r"run 'federation_task-\w{6}' is finished\n$", story.said[name])


def test_every_round_is_counted_once(story: Story) -> None:
    counted = [record.round for record in records(story.run_dir) if record.status == "committed"]
    assert counted == list(range(ROUNDS + 1))


def test_a_round_closes_at_quorum_when_a_client_is_killed(story: Story) -> None:
    closed = {r.round: r for r in records(story.run_dir) if r.status == "committed"}
    assert (closed[1].cohort, closed[1].updates) == (3, 3)
    assert (closed[story.killed_in_round].cohort, closed[story.killed_in_round].updates) == (3, 2)
    # The grace time of the plan is 2 s; the deadline would be 30.
    assert closed[story.killed_in_round].seconds < 10
    assert closed[story.killed_in_round + 1].cohort == 2


def test_a_killed_coordinator_goes_on_where_it_was(story: Story) -> None:
    assert story.facts["committed at the kill"] >= 3
    assert all(record.updates >= 2 for record in records(story.run_dir)[1:] if record.status == "committed")


def test_ctrl_c_at_a_client_ends_it_within_5_seconds_and_says_what_is_kept(story: Story) -> None:
    assert story.codes["b, SIGINT"] == ExitCode.INTERRUPTED
    assert story.facts["b, SIGINT"] < 5
    last = story.said["b, SIGINT"].strip().splitlines()[-1]
    assert "stopped; the state is kept in " in last
    assert last.endswith("the same command goes on from there")


def test_sigterm_ends_a_coordinator_within_5_seconds_and_says_what_is_kept(story: Story) -> None:
    assert story.codes["coordinator, SIGTERM"] == ExitCode.INTERRUPTED
    assert story.facts["coordinator, SIGTERM"] < 5
    last = story.said["coordinator, SIGTERM"].strip().splitlines()[-1]
    assert re.search(rf"stopped; \d+ of {ROUNDS} rounds are kept in .*: the same command goes on", last)


def test_no_trainer_outlives_its_client(story: Story) -> None:
    assert story.orphans == []


def test_nobody_says_a_traceback_or_the_same_line_twice(story: Story) -> None:
    for name, said in story.said.items():
        assert "Traceback" not in said, name
        lines = [line[10:] for line in said.splitlines()]
        twice = [line for line, following in itertools.pairwise(lines) if line == following]
        assert twice == [], name


def test_the_coordinator_has_no_torch_and_stays_small(story: Story) -> None:
    assert "numpy" in story.coordinator_maps
    assert "libtorch" not in story.coordinator_maps
    assert story.facts["idle coordinator MiB"] < 100


def test_the_model_of_the_run_is_exported(story: Story, tmp_path: Path) -> None:
    assert main(["export", str(story.run_dir), "-o", str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [8]
    assert session.get_outputs()[0].shape[1:] == [3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_coordinator_that_waits_for_clients_stops_at_once(
    plan: Path, tmp_path: Path, broker: Broker, number: signal.Signals
) -> None:
    command = Command(
        tmp_path / "log", "coordinator", plan, "--broker", broker.url, "--run-dir", tmp_path / "run"
    )
    try:
        command.wait_for("waiting for clients: 0 of 3 are there")
        code, seconds = command.end(number, timeout_s=15)
        assert (code, seconds < 5) == (ExitCode.INTERRUPTED, True)
        assert f"stopped; 0 of {ROUNDS} rounds are kept in {tmp_path / 'run'}" in command.said
    finally:
        command.close()


def test_an_interrupted_simulation_ends_its_trainers(plan: Path, task: Path, tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    call = ("simulate", plan, "--task", task, "--data", tmp_path, "--clients", 3, "--workers", 2)
    command = Command(tmp_path / "log", *call)
    try:
        command.wait_for(r"round +1/")
        trainers = psutil.Process(command.pid).children()
        assert len(trainers) == 2  # one for each worker
        code, seconds = command.end(signal.SIGINT, timeout_s=15)
        assert (code, seconds < 5) == (ExitCode.INTERRUPTED, True)
        assert command.said.endswith("hedgerow simulate: interrupted\n")
        assert psutil.wait_procs(trainers, timeout=3)[1] == []
    finally:
        command.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_loads_torch_stops_at_once_and_leaves_no_trainer(
    task: Path, tmp_path: Path, broker: Broker, number: signal.Signals
) -> None:
    call = ("client", task, "--broker", broker.url, "--name", "loading", "--state-dir", tmp_path / "state")
    command = Command(tmp_path / "log", *call)
    try:
        command.wait_for("loading federation_task.py")
        wait_until(lambda: command.trainer() is not None, "trainer")
        trainer = command.trainer()
        assert trainer is not None
        code, seconds = command.end(number, timeout_s=15)
        assert (code, seconds < 5) == (ExitCode.INTERRUPTED, True)
        assert f"stopped; the state is kept in {tmp_path / 'state'}" in command.said
        assert psutil.wait_procs([trainer], timeout=3)[1] == []
    finally:
        command.close()
