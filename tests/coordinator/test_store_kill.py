"""SIGKILL at any moment: what was said to be on the disk is there, and nothing is there by half."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hedgerow_coordinator.store import RunStore

WRITER = """
import hashlib, sys
import numpy as np
from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.errors import StoreNotFound
from hedgerow_coordinator.records import RoundRecord, UpdateRecord
from hedgerow_coordinator.store import RunStore

print("ready", flush=True)
try:
    store = RunStore.open(sys.argv[1])
except StoreNotFound:
    store = RunStore.create(
        sys.argv[1],
        plan_bytes=b"[run]\\nname = 'a'\\nrounds = 99999",
        template_bytes=b"t" * 100_000,
        run_id="r",
    )
latest = store.latest()
number = latest[0] + 1 if latest else 1
layout = Layout(tensors=(TensorSpec(name="w", shape=(500, 100), kind="linear", prunable=True),))
while True:
    for client in ("pi-1", "pi-2"):
        frame = f"{number} {client} ".encode() * 2000
        digest = hashlib.blake2b(frame, digest_size=16).digest()
        record = UpdateRecord(
            round=number, client=client, digest=digest, num_bytes=len(frame), num_samples=1, received=0.0
        )
        store.save_update(record, frame, estimate=b"estimate " + frame)
        print("update", number, client, flush=True)
    flat = np.full(50_000, number, np.float32)
    state = ServerState(version=number, mask=Mask.dense(layout), weights=flat, published=-flat)
    store.record_traffic(number, {("up", "update"): 1})
    updates = len(list(store.updates(number)))
    store.commit_round(
        RoundRecord(round=number, started=0.0, ended=0.0, seconds=0.0, updates=updates), state
    )
    print("round", number, flush=True)
    number += 1
"""


def killed(run: Path, *, after_s: float) -> list[list[str]]:
    """Start a writer, kill it so long after its imports, and return what it has said."""
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    said = [line.split() for line in child.stdout.read().splitlines()]
    assert child.wait(10) == -signal.SIGKILL
    child.stdout.close()
    return said


def test_a_run_survives_kills(tmp_path: Path) -> None:
    chance, run, said = random.Random(5), tmp_path / "run", [["round", "0"]]
    enough_at = time.monotonic() + 12
    kills = 0
    # A busy machine needs more kills until some have hit the loop.
    while kills < 5 or int(said[-1][1]) <= 5 or (kills < 12 and time.monotonic() < enough_at):
        assert kills < 50, "the loop was never reached"
        # The first kills hit the making of the directory, the later ones the loop.
        said += killed(run, after_s=chance.uniform(0, 0.01) if kills < 4 else chance.uniform(0.01, 0.3))
        kills += 1
        if (run / "journal.sqlite").exists():
            with RunStore.open(run) as store:
                said.append(["round", str(check(store, said))])


def check(store: RunStore, said: list[list[str]]) -> int:
    """Compare the store with what writers have promised, and return its last round."""
    last_said = max(int(words[1]) for words in said if words[0] == "round")
    latest = store.latest()
    number = latest[0] if latest else 0
    # One commit may have been made and not been told of any more.
    assert number in (last_said, last_said + 1)
    assert [(record.round, record.updates) for record in store.rounds()] == [
        (n, 2) for n in range(1, number + 1)
    ]
    if latest:
        assert latest[1].version == number
        np.testing.assert_array_equal(latest[1].weights, np.full(50_000, number, np.float32))
        np.testing.assert_array_equal(latest[1].published, np.full(50_000, -number, np.float32))
    running = {update.record.client: update.frame for update in store.updates(number + 1)}
    promised = {words[2] for words in said if words[0] == "update" and int(words[1]) == number + 1}
    assert promised <= set(running)
    for client, frame in running.items():
        assert frame == f"{number + 1} {client} ".encode() * 2000
    assert len(store.update_records()) == 2 * number + len(running)
    for client in ("pi-1", "pi-2"):
        if number:
            estimate = store.estimates.load(client, before=number + 1)
            assert estimate == b"estimate " + f"{number} {client} ".encode() * 2000
        if client in running:
            estimate = store.estimates.load_new(client, round_number=number + 1)
            assert estimate == b"estimate " + running[client]
    kept = list((store.directory / "estimates").iterdir()) if number or running else []
    assert len(kept) == (2 if number else 0) + len(running)
    assert not any(path.name.endswith(".unfinished") for path in (store.directory / "checkpoints").iterdir())
    return number
