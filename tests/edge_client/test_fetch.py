"""Collecting blobs out of broadcast chunks."""

import itertools

import pytest

from hedgerow_edge_client.fetch import (
    BLOBS_ASKED_AT_ONCE,
    FIRST_PAUSE_S,
    LONGEST_PATIENCE_S,
    LONGEST_PAUSE_S,
    PROBE_BYTES,
    PULL_PAUSE_S,
    SILENT_SHARE,
    Fetch,
)
from hedgerow_edge_client.window import FIRST_WINDOW_BYTES, LARGEST_WINDOW_BYTES
from hedgerow_transport import BlobError, BlobRef, Need, Topics, blob_digest, decode_message, indices

DATA = bytes(range(50))
TOPICS = Topics("t")


def ref_of(data, kind="keyframe"):
    return BlobRef(kind=kind, digest=blob_digest(data), size=len(data))


def fetch_of(*blobs, earlier=None, chunk_bytes=16, directory=None, **options):
    return Fetch(
        [ref_of(data) for data in blobs],
        chunk_bytes=chunk_bytes,
        topics=TOPICS,
        jitter=lambda: 0.5,
        earlier=earlier,
        directory=directory,
        **options,
    )


def give(fetch, data, index, *, now=0.0):
    return fetch.add(blob_digest(data), index, data[16 * index : 16 * index + 16], now=now)


def asked(publications):
    """Return what each request asks for: (digest, chunk numbers)."""
    assert all(p.topic == TOPICS.need for p in publications)
    needs = [decode_message(p.payload, Need) for p in publications]
    return [(need.digest, indices(need.bitmap)) for need in needs]


def test_a_blob_is_complete_with_its_last_chunk():
    fetch = fetch_of(DATA)
    assert [give(fetch, DATA, index) for index in (3, 0, 0, 2)] == [True] * 4
    assert not fetch.complete
    give(fetch, DATA, 1)
    assert fetch.complete
    assert fetch.data(blob_digest(DATA)) == DATA
    assert fetch.wake_at is None
    assert fetch.tick(99.0) == []


def test_foreign_chunks_are_not_ours():
    fetch = fetch_of(DATA)
    assert not give(fetch, b"another blob", 0)


def test_missing_chunks_are_asked_for_after_silence_with_growing_pauses():
    fetch = fetch_of(DATA)
    fetch.start(10.0)
    assert fetch.wake_at == 10.0 + 1.5 * FIRST_PAUSE_S
    give(fetch, DATA, 1, now=10.05)
    assert fetch.tick(10.05 + 1.4 * FIRST_PAUSE_S) == []
    times = []
    for _ in range(12):
        times.append(fetch.wake_at)
        assert asked(fetch.tick(fetch.wake_at)) == [(blob_digest(DATA), [0, 2, 3])]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == pytest.approx(10.05 + 1.5 * FIRST_PAUSE_S)
    assert pauses[:3] == pytest.approx([1.5 * FIRST_PAUSE_S * factor for factor in (2, 4, 8)])
    assert pauses[-1] == pytest.approx(1.5 * LONGEST_PAUSE_S)


def test_nothing_is_asked_for_while_the_link_carries_something():
    heard = [0.0]
    fetch = fetch_of(DATA, heard_at=lambda: heard[0])
    fetch.start(0.0)
    for now in range(1, 100):
        heard[0] = now - 0.1
        assert fetch.tick(float(now)) == []
        assert fetch.wake_at == pytest.approx(heard[0] + FIRST_PAUSE_S)
    # What comes all the time may be for somebody else.
    heard[0] = LONGEST_PATIENCE_S
    assert asked(fetch.tick(LONGEST_PATIENCE_S)) == [(blob_digest(DATA), [0, 1, 2, 3])]


def test_a_slow_link_is_given_time():
    data = bytes(range(256)) * 2
    fetch = fetch_of(data)
    fetch.start(0.0)
    give(fetch, data, 0, now=20.0)
    assert fetch.wake_at == pytest.approx(20.0 + 1.5 * SILENT_SHARE * 20.0)
    # It has become faster: what is missing is soon noticed again.
    for index in range(1, 9):
        give(fetch, data, index, now=20.0 + index / 10)
    assert fetch.wake_at == pytest.approx(20.8 + 1.5 * FIRST_PAUSE_S)


def test_chunks_for_somebody_else_do_not_put_off_a_request():
    fetch = fetch_of(DATA)
    fetch.start(0.0)
    give(fetch, DATA, 0, now=0.0)
    due = fetch.wake_at
    assert give(fetch, DATA, 0, now=0.2)
    assert fetch.wake_at == due
    assert asked(fetch.tick(due)) == [(blob_digest(DATA), [1, 2, 3])]


LARGE = bytes(range(256)) * 16 * 300
STEP = 4096


def pull(fetch, now, numbers):
    """Hand in chunks of `LARGE`; return what is asked for a moment later."""
    for index in numbers:
        fetch.add(blob_digest(LARGE), index, LARGE[index * STEP : (index + 1) * STEP], now=now)
    return [i for _, missing in asked(fetch.tick(now + 1.1 * PULL_PAUSE_S)) for i in missing]


def test_a_large_blob_is_pulled_within_a_window_that_grows():
    fetch = fetch_of(LARGE, chunk_bytes=STEP)
    fetch.start(0.0)
    now = fetch.wake_at
    ((_, under_way),) = asked(fetch.tick(now))
    assert under_way == list(range(PROBE_BYTES // STEP))
    sizes = [len(under_way)]
    while not fetch.complete:
        now += 0.1
        under_way = pull(fetch, now, under_way)
        sizes.append(len(under_way))
    assert fetch.data(blob_digest(LARGE)) == LARGE
    assert sum(sizes) == 300
    assert sizes[1] * STEP <= 2 * FIRST_WINDOW_BYTES
    assert max(sizes) * STEP <= LARGEST_WINDOW_BYTES
    assert len(sizes) < 12
    assert now < 2.5


def test_after_a_lost_link_no_more_than_the_window_is_asked_for_again():
    fetch = fetch_of(LARGE, chunk_bytes=STEP)
    fetch.start(0.0)
    under_way = asked(fetch.tick(fetch.wake_at))[0][1]
    for turn in range(3):
        under_way = pull(fetch, 1.0 + turn / 10, under_way)
    fetch.start(50.0)
    assert fetch.wake_at == pytest.approx(50.0 + 1.5 * FIRST_PAUSE_S)
    again = asked(fetch.tick(fetch.wake_at))[0][1]
    assert again[0] == under_way[0]
    assert len(again) * STEP <= LARGEST_WINDOW_BYTES


def test_a_lost_chunk_is_asked_for_again_while_others_come():
    fetch = fetch_of(LARGE, chunk_bytes=STEP)
    fetch.start(0.0)
    under_way = asked(fetch.tick(fetch.wake_at))[0][1]
    lost, now, wanted = under_way[0], 1.0, under_way[1:]
    for _ in range(10):
        now += 0.4
        wanted = pull(fetch, now, wanted)
        if lost in wanted:
            break
    assert lost in wanted
    assert not fetch.complete


def test_where_somebody_else_leads_nothing_is_asked_for():
    fetch = fetch_of(LARGE, chunk_bytes=STEP)
    fetch.start(0.0)
    under_way = asked(fetch.tick(fetch.wake_at))[0][1]
    under_way = pull(fetch, 1.0, under_way)
    assert pull(fetch, 1.1, range(100, 200)) == []
    # Of its own chunks the last one calls for more.
    assert pull(fetch, 1.2, under_way) != []


def test_a_restart_goes_on_with_what_is_on_disk(tmp_path):
    first = fetch_of(DATA, b"plan", directory=tmp_path)
    give(first, DATA, 2)
    give(first, b"plan", 0)
    again = fetch_of(DATA, b"plan", directory=tmp_path)
    assert again.data(blob_digest(b"plan")) == b"plan"
    again.start(0.0)
    # Neither the plan nor chunk 2 is asked for.
    assert asked(again.tick(again.wake_at)) == [(blob_digest(DATA), [0, 1, 3])]
    for index in (0, 1, 3):
        give(again, DATA, index)
    assert fetch_of(DATA, b"plan", directory=tmp_path).complete


def test_a_disk_that_fails_is_done_without(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    fetch = fetch_of(DATA, directory=tmp_path / "file")
    for index in range(4):
        give(fetch, DATA, index)
    assert fetch.data(blob_digest(DATA)) == DATA


def test_only_a_few_blobs_are_asked_for_at_a_time():
    blobs = [bytes([number]) * 20 for number in range(6)]
    fetch = fetch_of(*blobs)
    fetch.start(0.0)
    give(fetch, blobs[0], 0)
    give(fetch, blobs[0], 1)
    first = asked(fetch.tick(5.0))
    assert [digest for digest, _ in first] == [
        blob_digest(data) for data in blobs[1 : 1 + BLOBS_ASKED_AT_ONCE]
    ]


def test_a_blob_that_never_comes_out_right_is_asked_for_ever_more_slowly():
    fetch = fetch_of(DATA)
    now, pauses = 0.0, []
    for _ in range(9):
        for index in (0, 1, 2):
            give(fetch, DATA, index, now=now)
        with pytest.raises(BlobError):
            fetch.add(blob_digest(DATA), 3, b"??", now=now)
        pauses.append(fetch.wake_at - now)
        assert asked(fetch.tick(fetch.wake_at))[0][1] == [0, 1, 2, 3]
        now += 100.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(1.5 * LONGEST_PAUSE_S)


def test_a_fetch_takes_over_what_the_one_before_has():
    first = fetch_of(DATA, b"plan")
    give(first, DATA, 2)
    give(first, b"plan", 0)
    second = fetch_of(DATA, b"plan", b"new", earlier=first)
    assert second.data(blob_digest(b"plan")) == b"plan"
    second.start(0.0)
    assert asked(second.tick(9.0)) == [(blob_digest(DATA), [0, 1, 3]), (blob_digest(b"new"), [0])]
    # Chunks of another size are of no use.
    third = fetch_of(DATA, earlier=second, chunk_bytes=32)
    third.start(0.0)
    assert asked(third.tick(9.0)) == [(blob_digest(DATA), [0, 1])]


def test_nothing_to_fetch_is_complete():
    assert fetch_of().complete


def test_more_chunks_than_a_bitmap_holds_are_refused():
    with pytest.raises(BlobError):
        Fetch(
            [BlobRef(kind="mask", digest=bytes(16), size=2**32 - 1)],
            chunk_bytes=16,
            topics=TOPICS,
            jitter=float,
        )
