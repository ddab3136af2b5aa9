"""The run store: what is kept, what is refused, and what a full disk or a second coordinator does."""

import errno
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.checkpoint import ServerState, decode_checkpoint, encode_checkpoint
from hedgerow_coordinator.errors import (
    PlanError,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreMismatch,
    StoreNotFound,
)
from hedgerow_coordinator.plan import parse_plan
from hedgerow_coordinator.records import RoundRecord, UpdateRecord
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import durable_file

PLAN = b'# mine\n[run]\nname = "digits"\n'
LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a", shape=(4, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(4,), kind="bias", prunable=False),
    )
)


def state(version: int) -> ServerState:
    live = np.ones(16, np.bool_)
    live[version % 12] = False
    mask = Mask(layout=LAYOUT, live=live)
    weights = np.where(live, np.arange(16, dtype=np.float32) + version, np.float32(0))
    return ServerState(version=version, mask=mask, weights=weights, published=weights * np.float32(0.5))


def row(number: int, **changes: object) -> RoundRecord:
    values = {"round": number, "started": 100.0 + number, "ended": 101.0 + number, "seconds": 1.0}
    return RoundRecord(**(values | changes))


def answer(number: int, client: str, frame: bytes, **changes: object) -> UpdateRecord:
    digest = hashlib.blake2b(frame, digest_size=16).digest()
    values = {"digest": digest, "num_bytes": len(frame), "num_samples": 10, "received": 5.0}
    return UpdateRecord(**({"round": number, "client": client} | values | changes))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunStore.create(tmp_path / "run", plan_bytes=PLAN, template_bytes=b"onnx", run_id="r1").close()
    return tmp_path / "run"


@pytest.fixture
def store(run: Path) -> Iterator[RunStore]:
    with RunStore.open(run) as opened:
        yield opened


def test_a_new_run(run: Path) -> None:
    with RunStore.open(run, plan=parse_plan(PLAN)) as store:
        assert store.latest() is None
        assert store.rounds() == []
        assert store.run_id == "r1"
        assert store.plan == parse_plan(PLAN)
        assert store.template_bytes() == b"onnx"
        assert store.next_session() == 1
        digest = store.blobs.put(b"blob")
    assert (run / "plan.toml").read_bytes() == PLAN
    with RunStore.open(run) as store:
        assert store.next_session() == 2
        assert store.blobs.get(digest) == b"blob"


def test_committed_rounds_come_back(run: Path) -> None:
    rows = [row(0), row(1, accuracy=0.5, loss=2.0, cohort=5, updates=4, density=0.75, uplink_bytes=2**40)]
    with RunStore.open(run) as store:
        for record in rows:
            store.commit_round(record, state(record.round))
    with RunStore.open(run) as store:
        assert store.rounds() == rows
        latest = store.latest()
    assert latest is not None
    number, kept = latest
    assert number == 1
    assert kept.mask == state(1).mask
    np.testing.assert_array_equal(kept.weights, state(1).weights)
    np.testing.assert_array_equal(kept.published, state(1).published)


def test_numpy_scalars_are_taken(store: RunStore) -> None:
    measured = row(1, accuracy=np.float32(0.5), updates=np.int64(3), uplink_bytes=np.int64(2**40))
    store.save_update(answer(1, "pi-1", b"x", loss=np.float32(0.25), metrics={"a": np.float32(2)}), b"x")
    store.commit_round(measured, state(1))
    assert store.rounds() == [row(1, accuracy=0.5, updates=3, uplink_bytes=2**40)]
    assert [(kept.loss, dict(kept.metrics)) for kept in store.update_records()] == [(0.25, {"a": 2.0})]


def test_three_checkpoints_are_kept(store: RunStore) -> None:
    for number in range(5):
        store.commit_round(row(number), state(number))
    names = sorted(path.name for path in (store.directory / "checkpoints").iterdir())
    assert names == ["round-00002.safetensors", "round-00003.safetensors", "round-00004.safetensors"]
    assert len(store.rounds()) == 5


def test_a_checkpoint_keeps_everything() -> None:
    full = state(3)
    weights = full.weights.copy()
    weights[3] = 7.0  # pruned, and still remembered
    full = ServerState(
        version=3,
        mask=full.mask,
        weights=weights,
        published=full.published,
        optimizer={"momentum": np.arange(3, dtype=np.float64)},
        notes={"steps": [["model_delta", "00ff", 12]]},
    )
    back = decode_checkpoint(encode_checkpoint(full), path=Path("x"))
    assert (back.version, back.mask, back.notes) == (3, full.mask, full.notes)
    assert back.weights.tolist() == weights.tolist()
    assert back.published.tolist() == full.published.tolist()
    assert back.optimizer["momentum"].tolist() == [0.0, 1.0, 2.0]
    back.weights[0] = 1.0  # not a read-only view of a file's bytes


def test_a_checkpoint_that_is_cut_or_foreign_is_damaged() -> None:
    data = encode_checkpoint(state(1))
    for end in range(len(data)):
        with pytest.raises(StoreDamaged):
            decode_checkpoint(data[:end], path=Path("x"))


def test_rounds_follow_each_other(store: RunStore) -> None:
    store.commit_round(row(0), state(0))
    store.commit_round(row(1), state(1))
    for number in (0, 1, 3):
        with pytest.raises(StoreError, match=f"round {number} cannot follow round 1"):
            store.commit_round(row(number), state(number))
    with pytest.raises(ValueError, match="version 3"):
        store.commit_round(row(2), state(3))
    assert [record.round for record in store.rounds()] == [0, 1]
    assert store.latest()[0] == 1  # type: ignore[index]


def test_failed_attempts_are_kept_with_their_reason(store: RunStore) -> None:
    failed = row(1, status="failed", reason="2 of 5 answered", cohort=5)
    store.fail_round(failed)
    store.save_update(answer(1, "pi-1", b"frame"), b"frame")
    store.fail_round(row(1, attempt=2, status="failed", reason="again"))
    store.commit_round(row(1, attempt=3), state(1))
    assert [(record.attempt, record.status) for record in store.rounds()] == [
        (1, "failed"),
        (2, "failed"),
        (3, "committed"),
    ]
    assert store.rounds()[0] == failed


def test_an_update_is_kept_once(run: Path) -> None:
    record = answer(1, "pi-2", b"frame two", loss=0.5, metrics={"steps": 3.0}, attempt=2)
    with RunStore.open(run) as store:
        assert store.save_update(record, b"frame two")
        assert store.save_update(answer(1, "pi-1", b"frame one"), b"frame one")
        assert not store.save_update(record, b"frame two")
        assert not store.save_update(answer(1, "pi-2", b"other"), b"other")
        assert store.save_update(answer(2, "pi-2", b"other"), b"other")
    with RunStore.open(run) as store:
        kept = list(store.updates(1))
        assert [update.frame for update in kept] == [b"frame one", b"frame two"]
        assert kept[1].record == record


def test_frames_go_with_their_round_and_rows_stay(store: RunStore) -> None:
    store.save_update(answer(1, "pi-1", b"one"), b"one")
    store.commit_round(row(1), state(1))
    store.save_update(answer(2, "pi-1", b"two"), b"two")
    assert [path.name for path in (store.directory / "updates").iterdir()] == ["00002"]
    assert [record.round for record in store.update_records()] == [1, 2]
    assert [update.frame for update in store.updates(2)] == [b"two"]


def test_a_damaged_update_is_told_and_a_deleted_one_dropped(store: RunStore) -> None:
    store.save_update(answer(1, "pi-1", b"one"), b"one")
    store.save_update(answer(1, "pi-2", b"two"), b"two")
    path = store.directory / "updates" / "00001" / "pi-1.bin"
    path.write_bytes(b"0ne")
    with pytest.raises(StoreDamaged, match=r"pi-1\.bin is not what was written; delete it to go on"):
        list(store.updates(1))
    path.unlink()
    assert [update.frame for update in store.updates(1)] == [b"two"]
    assert [event.kind for event in store.events()] == ["update lost"]
    assert store.save_update(answer(1, "pi-1", b"new"), b"new")


def test_a_client_cannot_name_a_path() -> None:
    for name in ("../x", "a/b", "", "A", "a" * 33):
        with pytest.raises(PlanError, match="client must be"):
            answer(1, name, b"")


def test_traffic_adds_up(store: RunStore) -> None:
    store.record_traffic(1, {("up", "offer"): 10, ("down", "blob"): 5})
    store.record_traffic(1, {("up", "offer"): 1})
    store.record_traffic(2, {("up", "offer"): 100})
    assert store.traffic(1) == {("up", "offer"): 11, ("down", "blob"): 5}
    assert store.traffic() == {("up", "offer"): 111, ("down", "blob"): 5}


def test_clients_are_summed_up(store: RunStore) -> None:
    store.save_update(
        answer(1, "pi-1", b"123", loss=2.0, train_s=1.5, received_bytes=7, received=50.0), b"123"
    )
    store.save_update(answer(2, "pi-1", b"12", loss=1.0, train_s=0.5, received_bytes=1, received=40.0), b"12")
    store.save_update(answer(1, "pi-0", b"1"), b"1")
    first, second = store.clients()
    assert (first.client, first.updates, first.loss) == ("pi-0", 1, None)
    assert (second.updates, second.num_samples, second.uplink_bytes, second.received_bytes) == (2, 20, 5, 8)
    assert (second.train_s, second.loss, second.last_round, second.last_seen) == (2.0, 1.0, 2, 50.0)


def test_directories_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="there is no run in"):
        RunStore.open(tmp_path)
    with pytest.raises(StoreNotFound):
        RunStore.open(tmp_path / "nowhere")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreExists, match=r"is not empty \(thesis.tex is in it\)"):
        RunStore.create(tmp_path, plan_bytes=PLAN, template_bytes=b"", run_id="r")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(PlanError):
        RunStore.create(tmp_path / "new", plan_bytes=b"", template_bytes=b"", run_id="r")
    assert not (tmp_path / "new").exists()
    with pytest.raises(StoreError, match=r"cannot write .*: Not a directory"):
        RunStore.create(tmp_path / "thesis.tex" / "x", plan_bytes=PLAN, template_bytes=b"", run_id="r")


def test_a_run_is_not_begun_twice(run: Path) -> None:
    with pytest.raises(StoreExists, match=r"there is a run in .* already"):
        RunStore.create(run, plan_bytes=PLAN, template_bytes=b"x", run_id="r2")
    with RunStore.open(run) as store:
        assert store.run_id == "r1"


def test_a_half_made_run_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(PLAN[:5])
    (tmp_path / "journal.sqlite.unfinished").write_bytes(b"half")
    (tmp_path / "journal.sqlite.unfinished-journal").write_bytes(b"half")
    with RunStore.create(tmp_path, plan_bytes=PLAN, template_bytes=b"x", run_id="r2") as store:
        assert store.run_id == "r2"


def test_another_plan_is_refused_with_its_differences(run: Path) -> None:
    other = parse_plan(PLAN + b"seed = 8\n[training]\nepochs = 2\n")
    with pytest.raises(StoreMismatch, match=r"\(\[run\] seed: 7 -> 8; \[training\] epochs: 1 -> 2\)"):
        RunStore.open(run, plan=other)
    RunStore.open(run, plan=parse_plan(b"[run]\nname='digits'")).close()
    (run / "plan.toml").write_bytes(PLAN + b"seed = 8\n")
    with pytest.raises(StoreDamaged, match=r"plan\.toml was changed since the run began"):
        RunStore.open(run)


def test_a_second_coordinator_is_refused(store: RunStore) -> None:
    code = (
        "import sys; from hedgerow_coordinator.store import RunStore; "
        "from hedgerow_coordinator.errors import StoreLocked\n"
        "try: RunStore.open(sys.argv[1])\nexcept StoreLocked as error: print(error.pid, error)\n"
    )
    command = [sys.executable, "-c", code, str(store.directory)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.startswith(f"{os.getpid()} process {os.getpid()} already coordinates the run in")
    with pytest.raises(StoreLocked):
        RunStore.open(store.directory)
    store.close()
    RunStore.open(store.directory).close()


def test_a_reader_needs_no_lock_and_cannot_write(store: RunStore) -> None:
    with RunStore.open(store.directory, read_only=True) as reader:
        store.commit_round(row(1), state(1))
        assert [record.round for record in reader.rounds()] == [1]
        assert reader.latest()[0] == 1  # type: ignore[index]
        with pytest.raises(StoreError, match="readonly"):
            reader.event("a", "b")


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def test_damage_is_found(run: Path) -> None:
    with RunStore.open(run) as store:
        store.commit_round(row(1), state(1))
        damage(run / "checkpoints" / "round-00001.safetensors", -1)
        with pytest.raises(StoreDamaged, match=r"round-00001\.safetensors is not what was written"):
            store.latest()
        damage(run / "template.onnx", 0)
        with pytest.raises(StoreDamaged, match=r"template\.onnx is not what was written"):
            store.template_bytes()
        (run / "checkpoints" / "round-00001.safetensors").unlink()
        with pytest.raises(StoreDamaged, match=r"round-00001\.safetensors is missing"):
            store.latest()
    (run / "journal.sqlite").write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(StoreDamaged, match=r"journal\.sqlite is damaged: file is not a database"):
        RunStore.open(run)


def test_journals_of_others_are_refused(run: Path) -> None:
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreMismatch, match="its journal has version 99, this one reads 1"):
        RunStore.open(run)
    (run / "journal.sqlite").unlink()
    sqlite3.connect(run / "journal.sqlite").execute("CREATE TABLE a (b)").connection.close()
    with pytest.raises(StoreDamaged, match="is not a journal of Hedgerow"):
        RunStore.open(run)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    path = tmp_path / "file"
    durable_file.write_durably(path, b"old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(durable_file.os, name, broken)
            with pytest.raises(OSError, match="broken"):
                durable_file.write_durably(path, b"new and longer")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    durable_file.write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_leaves_the_run_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunStore.open(run) as store:
        store.commit_round(row(1), state(1))
        with monkeypatch.context() as patch:
            patch.setattr(durable_file.os, "fsync", full)
            with pytest.raises(StoreError, match=r"round-00002.*No space left on device; the run is as"):
                store.commit_round(row(2), state(2))
            with pytest.raises(StoreError, match="No space left on device"):
                store.save_update(answer(2, "pi-1", b"x"), b"x")
        assert list(store.updates(2)) == []
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["round-00001.safetensors"]
        assert store.latest()[0] == 1  # type: ignore[index]
        store.commit_round(row(2), state(2))


def test_a_full_journal_leaves_the_run_as_it_was(run: Path) -> None:
    with RunStore.open(run) as store:
        store.commit_round(row(1), state(1))
        connection = store._journal._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="database or disk is full"):
            store.event("noise", "x" * 20_000)
        with pytest.raises(StoreError, match="database or disk is full"):
            store.commit_round(row(2, reason="x" * 20_000), state(2))
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["round-00001.safetensors"]
        assert [record.round for record in store.rounds()] == [1]
        connection.execute("PRAGMA max_page_count = 100000")
        store.commit_round(row(2), state(2))
        assert store.latest()[0] == 2  # type: ignore[index]
