"""Models delivered to real clients over a real Mosquitto: worse and hostile ones, kills, signatures."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow.exit_codes import ExitCode
from hedgerow.main import main
from hedgerow_coordinator import DeliveryOutcome, DeliverySettings, RunStore, deliver
from hedgerow_edge_client import ModelShelf
from hedgerow_export import ActivationRanges, Runner
from hedgerow_transport import Broker, Credentials, blob_digest

# Torch is started several times, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)
_NUMBERS = itertools.count()


def model(weights: np.ndarray, *, hidden: int = 8, rest: float = 0.0) -> bytes:
    """Return y = (x W1) W2, where W1 passes the 8 inputs on to `hidden` units, the others `rest`."""
    first = np.full((8, hidden), rest, np.float32)
    first[:, :8] = np.eye(8, dtype=np.float32)
    second = np.zeros((hidden, 3), np.float32)
    second[:8] = weights
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


# The task's classes are the largest of the first three inputs.
RIGHT = np.eye(8, 3, dtype=np.float32)
GOOD, GOOD_TOO, POOR = model(RIGHT), model(2 * RIGHT), model(-RIGHT)
# 2 MB that no compression and no short cut makes smaller: 43 chunks.
LARGE = model(3 * RIGHT, hidden=50_000, rest=0.5)


class Client:
    """A `hedgerow client` that can be killed and started again on its state."""

    def __init__(self, folder: Path, task: Path, broker: Broker, namespace: str, *more: object) -> None:
        self.state, self.data = folder / "state", folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self._log = folder / "client.log"
        self._call = ("client", task, "--broker", broker.url, "--name", "pi", "--namespace", namespace)
        self._call += ("--state-dir", self.state, "--data", self.data, "--threads", 1, *more)
        self.start()

    def start(self) -> None:
        self._from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hedgerow.main", *map(str, self._call)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        return self._log.read_bytes()[self._from :].decode()

    def wait_for(self, pattern: str) -> None:
        wait_until(lambda: re.search(pattern, self.said) is not None, pattern, lambda: self.said)

    @property
    def in_use(self) -> bytes | None:
        found = ModelShelf(self.state).load()
        return None if found is None else found[1]


def wait_until(condition: Callable[[], bool], what: str, said: Callable[[], str] = lambda: "") -> None:
    give_up_at = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what}\n{said()}"
        time.sleep(0.01)


class Delivering:
    """A delivery in a thread, whose file need not be one that the command would send."""

    def __init__(self, data: bytes, settings: DeliverySettings) -> None:
        self.stop = threading.Event()
        self.outcome: DeliveryOutcome | None = None
        self._thread = threading.Thread(target=self._run, args=(data, settings))
        self._thread.start()

    def _run(self, data: bytes, settings: DeliverySettings) -> None:
        quiet: Callable[[Any], None] = lambda _: None  # noqa: E731
        self.outcome = deliver(data, settings, stop=self.stop, show=quiet, say=quiet)

    def result(self) -> DeliveryOutcome:
        self._thread.join(150)
        assert self.outcome is not None
        return self.outcome

    def cancel(self) -> DeliveryOutcome:
        self.stop.set()
        return self.result()


class Place:
    def __init__(self, folder: Path, broker: Broker, task: Path) -> None:
        self.folder, self.broker, self.task = folder, broker, task
        self.namespace = f"delivery{next(_NUMBERS)}"
        self.settings = DeliverySettings(broker=broker.url, namespace=self.namespace, wait_s=120.0)
        self._clients: list[Client] = []

    def client(self, *more: object) -> Client:
        self._clients.append(Client(self.folder, self.task, self.broker, self.namespace, *more))
        return self._clients[-1]

    def command(self, data: bytes, *more: str) -> tuple[int, dict[str, Any]]:
        path, facts = self.folder / "delivered.onnx", self.folder / "facts.json"
        path.write_bytes(data)
        call = [
            "deliver",
            str(path),
            "--broker",
            self.broker.url,
            "--namespace",
            self.namespace,
            "--wait",
            "120",
        ]
        code = main([*call, "--json", str(facts), *more])
        return code, json.loads(facts.read_text())["devices"][0]

    def close(self) -> None:
        for client in self._clients:
            client.kill()


@pytest.fixture
def place(tmp_path: Path, broker: Broker, task: Path) -> Iterator[Place]:
    made = Place(tmp_path, broker, task)
    yield made
    made.close()


def test_models_are_tried_and_taken_or_not_and_the_last_good_one_is_used(
    place: Place, crashing_model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    client = place.client()
    client.wait_for("waiting for a round")

    code, told = place.command(GOOD)
    assert (code, told["state"], told["after"], told["samples"]) == (0, "accepted", 1.0, 64)
    assert "before" not in told
    assert 0 < told["p50_ms"] < 1000

    code, told = place.command(POOR)
    assert (code, told["state"], told["before"]) == (ExitCode.RUN_FAILED, "worse", 1.0)
    assert told["after"] < 0.5
    assert told["in_use"] == blob_digest(GOOD).hex()

    # The command itself does not send what cannot be loaded; somebody else might.
    bad = place.folder / "bad.onnx"
    bad.write_bytes(crashing_model)
    capsys.readouterr()
    assert main(["deliver", str(bad), "--broker", place.broker.url]) == ExitCode.USAGE
    assert "hedgerow deliver: The model crashes the process" in capsys.readouterr().err
    hostile = {
        crashing_model: "crashes the process that loads it",
        GOOD[:-50]: "",
        b"no model at all" * 20: "",
        GOOD.replace(b"MatMul", b"Wobble"): "",
    }
    for data, reason in hostile.items():
        (row,) = Delivering(data, place.settings).result().rows
        assert row.state == "refused"
        assert row.report is not None
        assert reason in row.report.reason
        assert row.report.in_use == blob_digest(GOOD)
        assert client.process.poll() is None

    code, told = place.command(GOOD_TOO)
    assert (code, told["state"], told["before"], told["after"]) == (0, "accepted", 1.0, 1.0)
    assert client.in_use == GOOD_TOO
    assert "Traceback" not in client.said

    np.save(place.folder / "rows.npy", np.eye(8, dtype=np.float32)[:3])
    state = ["--state-dir", str(client.state)]
    capsys.readouterr()
    assert main(["infer", *state, "--input", str(place.folder / "rows.npy")]) == 0
    assert re.search(r"^0  0  2\n1  1  2\n2  2  2\n", capsys.readouterr().out)
    assert main(["model", *state, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["in_use"], told["before"]) == (blob_digest(GOOD_TOO).hex(), blob_digest(GOOD).hex())
    assert Path(told["path"]).read_bytes() == GOOD_TOO
    assert main(["model", *state, "--back"]) == 0
    assert client.in_use == GOOD


def test_a_client_that_is_killed_in_mid_fetch_goes_on_where_it_was(place: Place) -> None:
    client = place.client()
    client.wait_for("waiting for a round")
    slow = replace(place.settings, max_kbit_s=8000.0)
    delivering = Delivering(LARGE, slow)
    part = client.state / "delivery" / "parts" / f"{blob_digest(LARGE).hex()}.part"
    wait_until(
        lambda: part.exists() and part.stat().st_size > 500_000, "part of the model", lambda: client.said
    )
    client.kill()
    at_kill = part.stat().st_size
    assert at_kill < len(LARGE)
    # The gateway's process ends as well: nothing is sent while nobody is there.
    delivering.cancel()
    client.start()
    client.wait_for("waiting for a round")
    outcome = Delivering(LARGE, slow).result()
    assert [row.state for row in outcome.rows] == ["accepted"]
    assert client.in_use == LARGE
    assert outcome.bytes_sent < len(LARGE) - at_kill + 400_000
    assert not part.exists()


def test_a_client_that_is_killed_in_mid_switch_has_one_good_model_and_takes_the_new_one(place: Place) -> None:
    client = place.client()
    client.wait_for("waiting for a round")
    assert Delivering(GOOD, place.settings).result().rows[0].state == "accepted"
    delivering = Delivering(GOOD_TOO, place.settings)
    staged = client.state / "delivery" / "models" / f"{blob_digest(GOOD_TOO).hex()}.blob"
    wait_until(staged.exists, "staged model", lambda: client.said)
    client.kill()
    assert client.in_use in (GOOD, GOOD_TOO)
    client.start()
    assert [row.state for row in delivering.result().rows] == ["accepted"]
    assert client.in_use == GOOD_TOO
    assert "damaged" not in client.said


SWITCHER = """
import sys
from pathlib import Path
from hedgerow_edge_client import ModelShelf
from hedgerow_transport import DeliveryReport
shelf = ModelShelf(Path(sys.argv[1]))
models = [bytes([i]) * 200_000 for i in range(5)]
print("begun", flush=True)
while True:
    for model in models:
        digest = shelf.stage(model)
        shelf.switch(digest, DeliveryReport(model=digest, outcome="accepted", in_use=digest))
        shelf.clear()
"""


def test_a_process_that_is_killed_while_it_switches_leaves_a_whole_model_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", SWITCHER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.02 + 0.2 * rng.random())
        process.kill()
        process.wait()
        process.stdout.close()
        shelf = ModelShelf(tmp_path)
        shelf.mend()
        found = shelf.load()
        assert found is not None
        assert found[1] == found[1][:1] * 200_000
        assert (tmp_path / "delivery" / "model.onnx").read_bytes() == found[1]
        assert shelf.warnings == []
        seen.add(found[1][0])
    assert len(seen) > 1


def test_a_delivery_goes_on_beside_a_run_and_harms_no_round(place: Place, initialised: Path) -> None:
    folder = place.folder / "plan"
    folder.mkdir()
    for source in initialised.iterdir():
        if source.is_file():
            (folder / source.name).write_bytes(source.read_bytes())
    text = (folder / "plan.toml").read_text()
    for old, new in (
        ("min_clients = 2", "min_clients = 1"),
        ("rounds = 3", "rounds = 6"),
        ('namespace = "default"', f'namespace = "{place.namespace}"'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "plan.toml").write_text(text)
    client = place.client()
    (client.data / "slow").touch()
    client.wait_for("waiting for a round")
    call = [
        "coordinator",
        folder / "plan.toml",
        "--broker",
        place.broker.url,
        "--run-dir",
        place.folder / "run",
    ]
    with (place.folder / "coordinator.log").open("wb") as log:
        leading = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.main", *map(str, call)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        client.wait_for("round 2: training")
        outcome = Delivering(GOOD, place.settings).result()
        assert [row.state for row in outcome.rows] == ["accepted"]
        assert leading.wait(120) == 0
    finally:
        leading.kill()
        leading.wait()
    with RunStore.open(place.folder / "run", read_only=True) as store:
        rounds = [record for record in store.rounds() if record.round > 0]
        events = [event.detail for event in store.events() if event.kind == "refused"]
    assert [(record.round, record.updates, record.status) for record in rounds] == [
        (number, 1, "committed") for number in range(1, 7)
    ]
    assert events == []
    said = (place.folder / "coordinator.log").read_text()
    assert "ignored" not in said
    assert "ignored" not in client.said
    run_dir, folder = str(place.folder / "run"), place.folder

    # Ranges come from the device, where the gateway has no data but to check with; then int8 goes there.
    model, small, ranges = (str(folder / name) for name in ("model.onnx", "small.onnx", "ranges.bin"))
    assert main(["export", run_dir, "-o", model]) == 0
    at = ["--broker", place.broker.url, "--namespace", place.namespace, "--wait", "120"]
    assert main(["deliver", model, *at, "--calibrate", "-o", ranges]) == 0
    assert client.in_use == GOOD
    assert not list((client.state / "delivery" / "models").glob("*.blob"))[1:]
    told = ActivationRanges.decode(Path(ranges).read_bytes())
    assert told.rows == 64
    # One machine by itself counts the same.
    own = str(folder / "own.bin")
    call = [
        "calibrate",
        model,
        "--task",
        str(place.task),
        "--data",
        str(client.data),
        "--name",
        "pi",
        "-o",
        own,
    ]
    assert main(call) == 0
    assert Path(own).read_bytes() == Path(ranges).read_bytes()
    int8 = ["--quantize", "int8", "--max-drop", "10"]
    assert main(["export", run_dir, "-o", small, *int8, "--ranges", ranges, own]) == 0
    assert Runner(Path(small).read_bytes()).metadata["ranges"] == "of 128 inputs on devices"
    assert main(["export", run_dir, "-o", small, *int8, "--ranges", small]) == ExitCode.USAGE
    assert main(["export", run_dir, "-o", small, *int8, "--round", "5", "--ranges", ranges]) == ExitCode.USAGE
    assert main(["deliver", small, *at, "--max-drop", "100"]) == 0
    assert client.in_use == Path(small).read_bytes()


def test_a_signed_federation_takes_signed_deliveries_only(place: Place) -> None:
    keys = place.folder / "keys"
    assert main(["keys", "init", str(keys), "--host", "localhost"]) == 0
    assert main(["keys", "device", "pi", "--keys", str(keys)]) == 0
    assert main(["keys", "device", "away", "--keys", str(keys)]) == 0
    client = place.client("--credentials", keys / "devices" / "pi")
    client.wait_for("waiting for a round")
    # Somebody without the coordinator's key offers a model, and gets no answer from the device.
    rows = {row.name: row for row in Delivering(POOR, replace(place.settings, wait_s=6.0)).result().rows}
    assert rows.get("pi") is None or rows["pi"].report is None
    wait_until(
        lambda: "a message of the coordinator is not signed" in client.said, "refusal", lambda: client.said
    )
    assert client.in_use is None

    credentials = Credentials.load(keys / "coordinator", role="coordinator")
    signed = replace(place.settings, credentials=credentials)
    for _ in range(2):  # the second time the answer is the retained one, and said again
        outcome = Delivering(GOOD, signed).result()
        told = {row.name: row.problem or row.state for row in outcome.rows}
        assert told == {"pi": "accepted", "away": "away"}
    assert client.in_use == GOOD
    assert client.process.poll() is None
