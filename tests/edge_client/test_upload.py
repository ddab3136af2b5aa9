"""Bringing one update home."""

import pytest

from hedgerow_edge_client.upload import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    UNDER_WAY_PAUSE_S,
    Upload,
)
from hedgerow_edge_client.window import LOST_AFTER_S, SLOW_TRIP_S
from hedgerow_transport import (
    Accept,
    BlobRef,
    Offer,
    Topics,
    bitmap,
    blob_digest,
    decode_chunk,
    decode_message,
)

FRAME = bytes(range(100))
TOPICS = Topics("t")
CHUNK = 16 << 10


@pytest.fixture
def offer():
    return Offer(
        run="r",
        round=1,
        update=BlobRef(kind="update", digest=blob_digest(FRAME), size=100),
        num_samples=5,
        received_bytes=77,
        chunk_bytes=32,
    )


@pytest.fixture
def upload(offer):
    return Upload(offer, frame=FRAME, client="pi", topics=TOPICS)


def accept(*have):
    return Accept(run="r", round=1, digest=blob_digest(FRAME), have=bitmap.from_indices(have, size=4))


def sent(publications):
    assert all(p.topic == TOPICS.up("pi", "chunk") for p in publications)
    return [decode_chunk(p.payload) for p in publications]


def test_the_offer_is_repeated_with_growing_pauses(upload, offer):
    assert (upload.digest, upload.received_bytes) == (blob_digest(FRAME), 77)
    times, now = [], upload.wake_at
    for _ in range(8):
        (publication,) = upload.tick(now)
        assert publication.topic == TOPICS.up("pi", "offer")
        assert decode_message(publication.payload, Offer) == offer
        assert upload.tick(now) == []
        times.append(upload.wake_at - now)
        now = upload.wake_at
    assert times[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert times[-1] == LONGEST_PAUSE_S


def test_an_accept_is_answered_with_what_is_missing(upload):
    upload.tick(0.0)
    assert sent(upload.accepted(accept(1), now=1.0)) == [(0, FRAME[:32]), (2, FRAME[64:96]), (3, FRAME[96:])]
    # The coordinator tells by itself what arrives: the next offer is for when it does not.
    assert upload.wake_at == 1.0 + UNDER_WAY_PAUSE_S


def test_an_accept_that_nothing_was_offered_for_is_ignored(upload):
    assert upload.accepted(accept(), now=0.0) == []


def test_what_is_under_way_is_not_sent_twice(upload):
    upload.tick(0.0)
    assert len(upload.accepted(accept(), now=0.1)) == 4
    assert upload.accepted(accept(), now=0.2) == []
    assert upload.accepted(accept(0), now=0.3) == []
    assert upload.accepted(accept(0, 1), now=9.0) == []


def test_what_a_later_chunk_has_overtaken_is_lost(upload):
    upload.tick(0.0)
    upload.accepted(accept(), now=0.1)
    assert sent(upload.accepted(accept(0, 2), now=0.3)) == [(1, FRAME[32:64])]
    # Chunk 1 is now behind chunk 3.
    assert upload.accepted(accept(0, 2, 3), now=0.4) == []


def test_what_stays_unheard_of_is_lost_and_on_a_fast_link_soon(upload):
    shortest, longest = LOST_AFTER_S
    upload.tick(0.0)
    assert len(upload.accepted(accept(), now=0.0)) == 4
    upload.tick(longest - 1)
    assert upload.accepted(accept(), now=longest - 1) == []
    upload.tick(longest + 20)
    assert len(upload.accepted(accept(), now=longest + 20)) == 4
    now = longest + 20.1
    assert upload.accepted(accept(0, 1, 2), now=now) == []
    upload.tick(now + shortest)
    assert sent(upload.accepted(accept(0, 1, 2), now=now + shortest)) == [(3, FRAME[96:])]


def test_with_the_link_everything_under_way_is_lost(upload):
    upload.tick(0.0)
    upload.accepted(accept(), now=0.1)
    upload.restart()
    upload.tick(1.0)
    assert sent(upload.accepted(accept(0, 1, 3), now=1.1)) == [(2, FRAME[64:96])]


def large_upload(num_chunks):
    frame = bytes(num_chunks * CHUNK)
    ref = BlobRef(kind="update", digest=blob_digest(frame), size=len(frame))
    offer = Offer(run="r", round=1, update=ref, num_samples=5, received_bytes=0, chunk_bytes=CHUNK)
    return Upload(offer, frame=frame, client="pi", topics=TOPICS)


def test_the_window_grows_with_what_arrives_and_shrinks_with_what_is_lost():
    upload, num_chunks = large_upload(200), 200
    upload.tick(0.0)

    def answer(have, now):
        message = Accept(
            run="r", round=1, digest=upload.digest, have=bitmap.from_indices(have, size=num_chunks)
        )
        return [index for index, _ in sent(upload.accepted(message, now=now))]

    have, now, under_way, sizes = [], 0.0, [], []
    for _ in range(6):
        have += under_way
        under_way = answer(have, now)
        sizes.append(len(under_way))
        now += 0.1
    assert sizes == [4, 8, 16, 32, 32, 32]
    assert have == list(range(92))
    upload.restart()
    upload.tick(now)
    # Half of the largest window, and from where the coordinator is.
    assert answer(have, now) == list(range(92, 108))


def test_a_slow_link_does_not_fill_a_large_window():
    upload, num_chunks, have = large_upload(20), 20, []
    upload.tick(0.0)
    for turn in range(4):
        bits = bitmap.from_indices(have, size=num_chunks)
        message = Accept(run="r", round=1, digest=upload.digest, have=bits)
        upload.accepted(message, now=turn * 2 * SLOW_TRIP_S)
        have = list(range(turn + 1))
    assert len(upload._under_way) == 4


def test_chunks_larger_than_the_window_go_two_at_a_time():
    frame = bytes(5 << 18)
    ref = BlobRef(kind="update", digest=blob_digest(frame), size=len(frame))
    offer = Offer(run="r", round=1, update=ref, num_samples=5, received_bytes=0, chunk_bytes=1 << 18)
    upload = Upload(offer, frame=frame, client="pi", topics=TOPICS)
    upload.tick(0.0)
    message = Accept(run="r", round=1, digest=upload.digest, have=bitmap.from_indices([], size=5))
    assert [index for index, _ in sent(upload.accepted(message, now=0.0))] == [0, 1]


def test_after_a_restart_the_offer_goes_out_at_once(upload):
    for now in (0.0, 100.0, 200.0):
        upload.tick(now)
    upload.restart()
    assert upload.wake_at <= 200.0
    assert len(upload.tick(200.0)) == 1
    assert upload.wake_at == 200.0 + FIRST_PAUSE_S
