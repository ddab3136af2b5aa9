"""Which chunk is broadcast when, and how often at most."""

import itertools

import pytest

from hedgerow_coordinator.chunk_queue import (
    BURST_S,
    CROSSING_S,
    LONGEST_REPEAT_S,
    MERGE_S,
    REPEAT_S,
    ChunkQueue,
)

A, B = b"a" * 16, b"b" * 16


def drain(queue, now, *, num_bytes=10):
    """Return the chunks that go out now."""
    taken = []
    while (chunk := queue.take(now)) is not None:
        queue.note(chunk, num_bytes, now=now)
        taken.append(chunk)
    return taken


def test_what_is_pushed_goes_out_at_once_and_once():
    queue = ChunkQueue()
    assert queue.wake_at is None
    queue.push(A, range(3))
    queue.push(A, range(2))
    assert queue.wake_at <= 5.0
    assert drain(queue, 5.0) == [(A, 0), (A, 1), (A, 2)]
    assert queue.wake_at is None


def test_requests_of_many_are_merged_also_with_a_push():
    queue = ChunkQueue()
    queue.ask(A, [1, 3], now=0.0)
    queue.ask(A, [3, 4], now=0.01)
    queue.ask(B, [0], now=0.02)
    queue.push(A, [3, 5])
    assert drain(queue, 0.03) == [(A, 5)]
    assert queue.wake_at == MERGE_S
    assert drain(queue, MERGE_S) == [(A, 1), (A, 3), (A, 4), (B, 0)]


def test_a_request_that_crosses_the_chunk_is_not_answered():
    queue = ChunkQueue()
    queue.push(A, [0])
    drain(queue, 10.0)
    queue.ask(A, [0], now=10.0 + 0.9 * CROSSING_S)
    assert queue.wake_at is None
    queue.ask(A, [0], now=10.0 + 1.05 * CROSSING_S)
    assert queue.wake_at == 10.0 + REPEAT_S


def test_who_asks_without_end_is_answered_ever_more_rarely():
    queue, times = ChunkQueue(), []
    for tick in range(60_000):
        now = tick / 100
        queue.ask(A, range(5), now=now)
        sent = drain(queue, now)
        if sent:
            assert sent == [(A, index) for index in range(5)]
            times.append(now)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[:6] == pytest.approx([1, 2, 4, 8, 16, 32], abs=0.1)
    assert pauses[6:] == pytest.approx([LONGEST_REPEAT_S] * len(pauses[6:]), abs=0.1)
    # Ten minutes of asking a hundred times a second cost fifteen broadcasts.
    assert len(times) <= 16


def test_after_a_calm_time_repeats_are_quick_again():
    queue = ChunkQueue()
    now = 0.0
    for _ in range(5):
        queue.ask(A, [0], now=now)
        now = queue.wake_at
        assert drain(queue, now) == [(A, 0)]
        now += CROSSING_S
    calm = now + 3 * LONGEST_REPEAT_S
    queue.ask(A, [0], now=calm)
    assert drain(queue, calm + MERGE_S) == [(A, 0)]
    queue.ask(A, [0], now=calm + MERGE_S + CROSSING_S)
    assert queue.wake_at == pytest.approx(calm + MERGE_S + REPEAT_S)


def test_what_is_put_off_does_not_hold_up_other_chunks():
    queue = ChunkQueue()
    queue.push(A, [0])
    drain(queue, 0.0)
    queue.ask(A, [0, 1], now=0.92)
    assert drain(queue, 0.92 + MERGE_S) == [(A, 1)]
    assert queue.last_at == REPEAT_S
    assert drain(queue, REPEAT_S) == [(A, 0)]


def test_a_rate_is_kept_but_for_a_short_burst():
    queue, sent, now = ChunkQueue(max_bytes_per_s=1000.0), 0, 100.0
    queue.push(A, range(500))
    while queue.wake_at is not None:
        now = max(now, queue.wake_at)
        sent += 10 * len(drain(queue, now))
        assert sent <= 1000 * (now - 100.0 + BURST_S) + 10
    assert now == pytest.approx(105.0 - BURST_S, abs=0.05)


def test_blobs_that_are_dropped_are_not_sent():
    queue = ChunkQueue()
    queue.push(A, [0, 1])
    queue.ask(B, [0, 1], now=0.0)
    queue.keep({B})
    assert drain(queue, 1.0) == [(B, 0), (B, 1)]
    queue.keep(set())
    queue.push(B, [0])
    assert drain(queue, 1.0) == [(B, 0)]
