"""Estimates on the disk and one at a time in memory: what is taken, what is refused, what is forgotten."""

import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hedgerow_codecs import DecodedUpdate, Ef21Feedback, Layout, Mask, TensorSpec
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.errors import EstimateError, StoreDamaged, StoreError
from hedgerow_coordinator.estimates import Estimates
from hedgerow_coordinator.records import RoundRecord, UpdateRecord
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import BlobRef, Offer

LAYOUT = Layout(tensors=(TensorSpec(name="a", shape=(2, 3), kind="linear", prunable=True),))
DENSE = Mask.dense(LAYOUT)
ZERO = Ef21Feedback.zero(LAYOUT)


def feedback(*values: float) -> Ef21Feedback:
    return Ef21Feedback(estimate=np.array(values, np.float32))


def offer(estimate: bytes) -> Offer:
    update = BlobRef(kind="update", digest=bytes(16), size=1)
    return Offer(run="r", round=1, update=update, num_samples=1, estimate=estimate)


def sent(*values: float, mask: Mask = DENSE) -> DecodedUpdate:
    return DecodedUpdate(mask=mask, dense=np.array(values, np.float32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    plan = b"[run]\nname = 'a'\nrounds = 4\n[pruning]\npolicy = 'none'\n[codec]\nfeedback = 'ef21'"
    with RunStore.create(tmp_path / "run", plan_bytes=plan, template_bytes=b"t", run_id="r") as made:
        made.commit_round(row(0), state(0))
        yield made


@pytest.fixture
def answer(store: RunStore) -> Callable[[int, str, Ef21Feedback], None]:
    def save(number: int, client: str, estimate: Ef21Feedback) -> None:
        record = UpdateRecord(
            round=number, client=client, digest=bytes(16), num_bytes=1, num_samples=1, received=0.0
        )
        assert store.save_update(record, b"x", estimate=estimate.to_bytes())

    return save


def row(number: int) -> RoundRecord:
    return RoundRecord(round=number, started=0.0, ended=0.0, seconds=0.0)


def state(version: int) -> ServerState:
    flat = np.zeros(6, np.float32)
    return ServerState(version=version, mask=DENSE, weights=flat, published=flat)


def in_round(store: RunStore, number: int, mask: Mask = DENSE) -> Estimates:
    return Estimates(store.estimates, mask=mask, round_number=number)


def test_an_update_moves_the_estimate_that_it_is_relative_to(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    first = in_round(store, 1)
    assert first.fate("a", offer(ZERO.digest)) is None
    made = first.moved("a", sent(1, 2, 3, 4, 5, 6), digest=ZERO.digest)
    assert made.estimate.tolist() == [1, 2, 3, 4, 5, 6]
    answer(1, "a", made)
    assert first.recalled("a").estimate.tolist() == [1, 2, 3, 4, 5, 6]
    store.commit_round(row(1), state(1))
    thin = Mask(layout=LAYOUT, live=np.array([True, True, False, False, True, True]))
    second = in_round(store, 2, thin)
    assert second.fate("a", offer(made.digest)) is None
    moved = second.moved("a", sent(0.5, 0, -1, 0, mask=thin), digest=made.digest)
    assert moved.estimate.tolist() == [1.5, 2, 0, 0, 4, 6]
    update = second.as_update(moved)
    assert (update.mask, update.values().tolist()) == (thin, [1.5, 2, 4, 6])
    # Relative to zero it begins anew, and that is known.
    again = second.moved("a", sent(0.5, 0, -1, 0, mask=thin), digest=ZERO.digest)
    assert again.estimate.tolist() == [0.5, 0, 0, 0, -1, 0]
    assert (second.is_dropped("a", ZERO.digest), second.is_dropped("a", made.digest)) == (True, False)
    assert not second.is_dropped("b", ZERO.digest)


def test_what_is_relative_to_something_else_is_not_taken(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    made = feedback(1, 0, 0, 0, 0, 0)
    answer(1, "a", made)
    # Not committed, it is nobody's estimate yet.
    assert in_round(store, 1).fate("a", offer(made.digest)) == ("anew", "none is kept of a")
    store.commit_round(row(1), state(1))
    estimates = in_round(store, 2)
    assert estimates.fate("a", offer(made.digest)) is None
    assert estimates.fate("b", offer(made.digest)) == ("anew", "none is kept of b")
    other = feedback(1, 0, 0, 0, 0, 2).digest
    assert estimates.fate("a", offer(other)) == ("anew", "the estimate that is kept of a is another one")
    refusal = estimates.fate("a", offer(b""))
    assert refusal == ("refused", "this run uses EF21 error feedback: update Hedgerow on this device")


@pytest.mark.parametrize("how", ["gone", "damaged", "of another layout"])
def test_an_estimate_that_cannot_be_read_is_named(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None], how: str
) -> None:
    made = feedback(1, 2, 0, 0, 0, 0) if how != "of another layout" else feedback(*range(1, 21))
    answer(1, "a", made)
    store.commit_round(row(1), state(1))
    path = store.directory / "estimates" / "a.00001"
    if how == "gone":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(EstimateError, match=r"the estimate that is kept of a is lost$") as caught:
        in_round(store, 2).moved("a", sent(1, 1, 1, 1, 1, 1), digest=made.digest)
    assert caught.value.client == "a"
    # Where it lies is the gateway's affair.
    assert (str(path) in caught.value.detail) == (how != "of another layout")
    with pytest.raises(EstimateError, match=r"the estimate that is kept of b is lost$"):
        in_round(store, 2).recalled("b")


def test_an_update_taken_back_takes_its_estimate_with_it(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    old, new = feedback(1, 0, 0, 0, 0, 0), feedback(2, 0, 0, 0, 0, 0)
    answer(1, "a", old)
    store.commit_round(row(1), state(1))
    answer(2, "a", new)
    (record,) = store.update_records(2)
    store.drop_update(record, reason="a trial")
    assert store.estimates.digest("a", before=3) == old.digest
    with pytest.raises(StoreError, match="there is no estimate of a"):
        store.estimates.load_new("a", round_number=2)
    # The same client may answer again, with another estimate in the same place.
    answer(2, "a", old)
    store.commit_round(row(2), state(2))
    assert [path.name for path in (store.directory / "estimates").iterdir()] == ["a.00002"]
    assert store.estimates.load("a", before=3) == old.to_bytes()


def test_a_sweep_leaves_what_is_needed(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    directory = store.directory / "estimates"
    one = feedback(1, 0, 0, 0, 0, 0)
    for client in ("a", "b", "pi-1"):
        answer(1, client, one)
    store.commit_round(row(1), state(1))
    (directory / "a.00009").write_bytes(b"left by a killed process")
    answer(2, "a", one)
    store.close()
    with RunStore.open(store.directory) as again:
        names = sorted(path.name for path in directory.iterdir())
        assert names == ["a.00001", "a.00002", "b.00001", "pi-1.00001"]
        again.commit_round(row(2), state(2))
        assert sorted(path.name for path in directory.iterdir()) == ["a.00002", "b.00001", "pi-1.00001"]
        again.commit_round(row(3), state(3))
        assert len(list(directory.iterdir())) == 3
        again.commit_round(row(4), state(4))
        assert not directory.exists()


def test_a_full_disk_is_said_and_the_update_is_not_in_the_journal(
    store: RunStore,
    answer: Callable[[int, str, Ef21Feedback], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hedgerow_coordinator.estimate_files.write_durably", full)
    with pytest.raises(StoreError, match=r"cannot write .*estimates/a.00001: No space left on device"):
        answer(1, "a", ZERO)
    assert store.update_records(1) == []
    assert store.estimates.digest("a", before=9) is None


def test_a_journal_from_before_there_were_estimates_gets_a_table_for_them(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    store.close()
    with sqlite3.connect(store.directory / "journal.sqlite") as connection:
        connection.execute("DROP TABLE estimates")
    connection.close()
    with RunStore.open(store.directory, read_only=True) as reader:
        assert [record.round for record in reader.rounds()] == [0]
    with RunStore.open(store.directory) as again:
        assert again.estimates.digest("a", before=1) is None


def test_memory_does_not_grow_with_the_clients(store: RunStore) -> None:
    wide = Layout(tensors=(TensorSpec(name="a", shape=(500, 500), kind="linear", prunable=True),))
    mask, num_bytes = Mask.dense(wide), 1_000_000
    estimates = Estimates(store.estimates, mask=mask, round_number=2)
    update = DecodedUpdate(mask=mask, dense=np.ones(250_000, np.float32))
    before = Ef21Feedback(estimate=np.full(250_000, 0.5, np.float32))
    for number in range(12):
        record = UpdateRecord(
            round=1,
            client=f"pi-{number}",
            digest=bytes(16),
            num_bytes=1,
            num_samples=1,
            received=0.0,
        )
        store.save_update(record, b"x", estimate=before.to_bytes())
    tracemalloc.start()
    try:
        for number in range(12):
            moved = estimates.moved(f"pi-{number}", update, digest=before.digest)
            assert moved.estimate[0] == 1.5
            store.estimates.write(f"pi-{number}", 2, moved.to_bytes())
            del moved
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < num_bytes / 2
    assert peak < 8 * num_bytes


def test_damage_is_told_apart_from_absence(
    store: RunStore, answer: Callable[[int, str, Ef21Feedback], None]
) -> None:
    answer(1, "a", feedback(1, 0, 0, 0, 0, 0))
    path = store.directory / "estimates" / "a.00001"
    path.write_bytes(b"?")
    with pytest.raises(StoreDamaged, match="is not what was written"):
        store.estimates.load_new("a", round_number=1)
    path.unlink()
    with pytest.raises(StoreDamaged, match="is missing"):
        store.estimates.load_new("a", round_number=1)
