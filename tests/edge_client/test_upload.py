"""Bringing one update home."""

import pytest

from hedgerow_edge_client.upload import FIRST_PAUSE_S, LONGEST_PAUSE_S, UNDER_WAY_PAUSE_S, Upload
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


def test_each_offer_is_good_for_one_accept(upload):
    assert upload.accepted(accept(), now=0.0) == []
    upload.tick(0.0)
    assert len(upload.accepted(accept(), now=0.1)) == 4
    assert upload.accepted(accept(), now=0.2) == []
    upload.tick(10.0)
    assert sent(upload.accepted(accept(0, 1, 2), now=10.1)) == [(3, FRAME[96:])]


def test_after_a_restart_the_offer_goes_out_at_once(upload):
    for now in (0.0, 100.0, 200.0):
        upload.tick(now)
    upload.restart()
    assert upload.wake_at <= 200.0
    assert len(upload.tick(200.0)) == 1
    assert upload.wake_at == 200.0 + FIRST_PAUSE_S
