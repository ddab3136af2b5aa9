"""A small run with numbers that can be checked by hand."""

import hashlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow.runs import read_template
from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator import RoundRecord, RunStore, ServerState, UpdateRecord, load_plan, open_run
from hedgerow_export import template_parameters
from hedgerow_transport import (
    Broker,
    BrokerMissing,
    start_broker,
)

# The benchmarks, whose trainers some tests use, are not installed.
ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="fc.weight", shape=(50, 39), kind="linear", prunable=True),
        TensorSpec(name="fc.bias", shape=(50,), kind="bias", prunable=False),
    )
)
PLAN = b'[run]\nname = "digits"\nrounds = 3\n[pruning]\npolicy = "none"\n'
EVALUATED = PLAN + b'[evaluate]\ndata = "test.npz"\n'
MARKUP = "<script>alert(1)</script>"


def state(version: int, *, pruned: int = 0) -> ServerState:
    live = np.ones(LAYOUT.num_parameters, np.bool_)
    live[:pruned] = False
    flat = np.where(live, np.float32(0.5), np.float32(0))
    return ServerState(version=version, mask=Mask(layout=LAYOUT, live=live), weights=flat, published=flat)


def record(number: int, **values: Any) -> RoundRecord:
    whole: dict[str, Any] = {
        "round": number,
        "started": 1000.0 + number,
        "ended": 1001.0 + number,
        "seconds": 1.0,
        **values,
    }
    return RoundRecord(**whole)


def answer(store: RunStore, number: int, client: str, frame: bytes, *, received_bytes: int = 0) -> None:
    digest = hashlib.blake2b(frame, digest_size=16).digest()
    update = UpdateRecord(
        round=number,
        client=client,
        digest=digest,
        num_bytes=len(frame),
        num_samples=10,
        received=1_000_000.0,
        train_s=2.0,
        received_bytes=received_bytes,
        loss=0.25,
    )
    assert store.save_update(update, frame)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Train in one thread, and do not wait for the disk: power cuts are for the store's tests."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Return what makes a run directory without any round."""

    def make(plan: bytes = EVALUATED, *, name: str = "run") -> Path:
        store = RunStore.create(
            tmp_path / name, plan_bytes=plan, template_bytes=b"template", run_id="digits-1"
        )
        store.close()
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of three rounds, the second of which took two attempts; only to be read."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    with RunStore.create(
        directory, plan_bytes=EVALUATED, template_bytes=b"template", run_id="digits-1"
    ) as store:
        store.commit_round(record(0), state(0))
        answer(store, 1, "pi-1", b"x" * 400, received_bytes=300)
        answer(store, 1, "pi-2", b"y" * 500, received_bytes=300)
        store.record_traffic(1, {("received", "chunk"): 1000, ("sent", "blob"): 300})
        first: dict[str, Any] = {"cohort": 2, "updates": 2, "accuracy": 0.5, "loss": 2.0, "seconds": 2.0}
        store.commit_round(
            record(1, uplink_bytes=1000, broadcast_bytes=300, delivered_bytes=600, **first), state(1)
        )
        store.fail_round(record(2, cohort=2, updates=1, seconds=5.0, status="failed", reason=MARKUP))
        answer(store, 2, "pi-1", b"z" * 200, received_bytes=400)
        second: dict[str, Any] = {
            "cohort": 2,
            "updates": 2,
            "accuracy": 0.75,
            "loss": 1.0,
            "seconds": 3.0,
            "density": 0.75,
        }
        store.record_traffic(2, {("received", "chunk"): 500, ("sent", "blob"): 200})
        store.commit_round(
            record(2, attempt=2, uplink_bytes=500, broadcast_bytes=200, delivered_bytes=400, **second),
            state(2, pruned=500),
        )
        third: dict[str, Any] = {"cohort": 2, "updates": 1, "accuracy": 0.875, "loss": 0.5, "density": 0.25}
        store.record_traffic(3, {("received", "chunk"): 100, ("sent", "blob"): 50})
        store.commit_round(
            record(3, uplink_bytes=100, broadcast_bytes=50, delivered_bytes=200, **third),
            state(3, pruned=1500),
        )
        store.record_traffic(3, {("delivered", "farewell"): 50})
        store.event("finished", f"3 rounds {MARKUP}")
    return directory


@pytest.fixture
def small_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_run` that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


TASK = Path(__file__).with_name("federation_task.py")


@pytest.fixture(scope="session")
def task() -> Path:
    """Return a task file with a small model."""
    return TASK


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `hedgerow init` writes for two clients and three rounds; only to be read."""
    folder = tmp_path_factory.mktemp("initialised")
    code = main(["init", str(TASK), "--output", str(folder), "--clients", "2", "--rounds", "3"])
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return a Mosquitto on loopback; where it is not installed, tests fail."""
    try:
        started = start_broker(directory=tmp_path_factory.mktemp("mosquitto"), prefer="mosquitto")
    except BrokerMissing as error:
        pytest.fail(f"Mosquitto is missing: apt-get install mosquitto ({error})")
    with started:
        yield started


@pytest.fixture(scope="session")
def open_directory_factory() -> Iterator[Callable[[], Path]]:
    """Make directories that the user `mosquitto` can enter, which those of pytest are not under root."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="hedgerow-test-")))
        made[-1].chmod(0o755)
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory)


class Service:
    """A `hedgerow broker run` of a test, with what it says in a file."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hedgerow.main", "broker", "run", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, *, timeout_s: float = 15.0) -> re.Match[str]:
        give_up_at = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < give_up_at, self.said
            time.sleep(0.02)
        return found

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start `hedgerow broker run` with arguments; all are killed at the end."""
    started: list[Service] = []

    def begin(*arguments: object) -> Service:
        started.append(Service(tmp_path / f"broker-{len(started)}.log", *arguments))
        return started[-1]

    yield begin
    for service in started:
        service.process.kill()
        service.process.wait()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


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
