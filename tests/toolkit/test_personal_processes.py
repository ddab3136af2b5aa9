"""Personal models in real processes: a device that is killed keeps its own mask."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hedgerow.main import main
from hedgerow_coordinator import RunStore, StoreError
from hedgerow_coordinator.pruning import RECIPES, with_settings
from hedgerow_edge_client import Snapshot, read_snapshot
from hedgerow_edge_client.errors import StateError
from hedgerow_transport import Broker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROUNDS = 8


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 240.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what} within {timeout_s:g} s"
        time.sleep(0.05)


def committed(run_dir: Path) -> int:
    try:
        with RunStore.open(run_dir, read_only=True) as store:
            return max((r.round for r in store.rounds() if r.status == "committed"), default=0)
    except StoreError:
        return 0


def kept(folder: Path) -> Snapshot | None:
    try:
        return read_snapshot(folder)
    except StateError:
        return None


def density(folder: Path) -> float:
    snapshot = kept(folder)
    return 1.0 if snapshot is None or snapshot.personal is None else float(snapshot.personal.mean())


def test_a_killed_device_keeps_its_own_mask(
    initialised: Path, task: Path, broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in initialised.iterdir():
        if source.is_file():
            (tmp_path / source.name).write_bytes(source.read_bytes())
    plan = tmp_path / "plan.toml"
    settings = RECIPES["lotteryfl"].settings(ROUNDS)
    # 64 samples in a batch of 2 take long enough to be killed in; chance is enough to prune.
    settings = {**settings, "training": {"epochs": 3}, "cohort": {"grace_s": 60.0}, "run": {"rounds": ROUNDS}}
    settings["pruning"] = {**settings["pruning"], "density": 0.6, "own_share": 0.05, "own_least": 0.2}
    settings["transport"] = {"namespace": "personal"}
    plan.write_text(with_settings(plan.read_text(), settings))
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-m", "hedgerow.main", *map(str, arguments)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            )
        return started[-1]

    def client(name: str) -> subprocess.Popen[bytes]:
        options = ("--name", name, "--state-dir", tmp_path / name, "--namespace", "personal", "--threads", 1)
        return start("client", task, "--broker", broker.url, *options, "--once")

    run_dir = tmp_path / "run"
    try:
        start("coordinator", plan, "--broker", broker.url, "--run-dir", run_dir)
        first, _ = client("pi-1"), client("pi-2")
        wait_until(lambda: density(tmp_path / "pi-1") < 1, "mask of its own")
        first.kill()
        first.wait()
        before = kept(tmp_path / "pi-1")
        assert before is not None
        again = client("pi-1")
        wait_until(lambda: committed(run_dir) == ROUNDS, "end of the run")
        assert again.wait(60) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said, said
    assert "mean personal accuracy" in said
    after = kept(tmp_path / "pi-1")
    assert after is not None
    assert after.personal is not None
    assert before.personal is not None
    # What was pruned before the kill is still pruned, and it went on from there.
    assert not (after.personal & ~before.personal).any()
    assert after.personal.mean() < before.personal.mean()
    others = kept(tmp_path / "pi-2")
    assert others is not None
    assert not np.array_equal(others.personal, after.personal)
    with RunStore.open(run_dir, read_only=True) as store:
        assert store.traffic()["frames", "masks"] > 0
        clients = {(record.round, record.client) for record in store.update_records()}
    assert (ROUNDS, "pi-1") in clients
    call = [
        "personalise",
        str(task),
        "--state-dir",
        str(tmp_path / "pi-1"),
        "--name",
        "pi-1",
        "--threads",
        "1",
    ]
    template = ["--template", str(tmp_path / "template.onnx"), "-o", str(tmp_path / "my.onnx")]
    assert main([*call, *template]) == 0
    assert "that were held out" in capsys.readouterr().out
