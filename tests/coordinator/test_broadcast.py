"""Blobs on their way down: pushed, asked for, led around, deleted; and which of them lead to a version."""

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, codec_from_config
from hedgerow_coordinator.broadcast import ROOM_PAUSE_S, Broadcast
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.chunk_queue import MERGE_S
from hedgerow_coordinator.routes import FROM_NOTHING, HISTORY_VERSIONS, Routes
from hedgerow_coordinator.server_model import keyframe, stepped
from hedgerow_transport import (
    BlobStore,
    Need,
    Topics,
    bitmap,
    blob_digest,
    decode_chunk,
    parse_topic,
)

LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(30, 20), kind="linear", prunable=True),))


@pytest.fixture
def broadcast():
    return Broadcast(BlobStore(), topics=Topics("t"), chunk_bytes=16)


def chunks(publications):
    """Return (digest, index, data) of each publication."""
    return [(parse_topic(p.topic).digest, *decode_chunk(p.payload)) for p in publications]


def need(data, *missing):
    return Need(
        digest=blob_digest(data), bitmap=bitmap.from_indices(missing, size=max(missing, default=0) + 1)
    )


def test_a_push_sends_all_chunks_in_order_without_being_kept(broadcast):
    data = bytes(range(40))
    ref = broadcast.add("plan", data)
    assert broadcast.first_time(ref)
    broadcast.push([ref])
    publications = broadcast.tick(0.0)
    assert chunks(publications) == [
        (ref.digest, 0, data[:16]),
        (ref.digest, 1, data[16:32]),
        (ref.digest, 2, data[32:]),
    ]
    assert all(p.qos == 0 and not p.retain for p in publications)
    assert not broadcast.first_time(ref)


def test_requests_are_merged_and_answered_once(broadcast):
    data = bytes(range(200))
    ref = broadcast.add("plan", data)
    digest = ref.digest
    broadcast.push([ref])
    broadcast.tick(0.0)
    assert broadcast.wake_at is None
    assert broadcast.need(need(data, 1, 3), now=10.0)
    assert broadcast.need(need(data, 3, 12), now=10.01)
    assert broadcast.wake_at == 10.0 + MERGE_S
    assert broadcast.tick(10.0 + MERGE_S / 2) == []
    sent = chunks(broadcast.tick(10.0 + MERGE_S))
    assert [(d, index) for d, index, _ in sent] == [(digest, 1), (digest, 3), (digest, 12)]
    assert broadcast.wake_at is None
    assert broadcast.tick(11.0) == []


def test_the_first_request_for_a_blob_brings_all_of_it_to_everybody(broadcast):
    data = bytes(range(200))
    ref = broadcast.add("plan", data)
    assert broadcast.need(need(data, 3), now=10.0)
    assert broadcast.need(need(data, 0), now=10.01)
    sent = chunks(broadcast.tick(10.0 + MERGE_S))
    assert [index for _, index, _ in sent] == list(range(13))
    # Whoever was there has heard it: it is not pushed as well.
    assert not broadcast.first_time(ref)
    assert broadcast.need(need(data, 3), now=20.0)
    assert [index for _, index, _ in chunks(broadcast.tick(20.0 + MERGE_S))] == [3]


def test_a_request_for_what_is_not_there_is_refused(broadcast):
    data = bytes(40)
    broadcast.add("plan", data)
    assert not broadcast.need(need(b"unknown", 0), now=0.0)
    assert not broadcast.need(need(data, 0, 3), now=0.0)
    assert not broadcast.need(need(data), now=0.0)
    assert not broadcast.need(Need(digest=blob_digest(data), bitmap=b"\x01" + bytes(8000) + b"\x80"), now=0.0)
    assert broadcast.wake_at is None
    # Zeros behind the end ask for nothing.
    assert broadcast.need(Need(digest=blob_digest(data), bitmap=b"\x01" + bytes(8000)), now=0.0)


def test_what_nobody_names_is_dropped(broadcast):
    kept, dropped = broadcast.add("plan", b"kept"), broadcast.add("plan", b"dropped")
    broadcast.need(need(b"dropped", 0), now=0.0)
    broadcast.keep([kept])
    assert broadcast.has(kept)
    assert not broadcast.has(dropped)
    assert broadcast.tick(1.0) == []
    assert not broadcast.need(need(b"dropped", 0), now=2.0)


def test_a_blob_of_an_earlier_process_is_taken_up_only_when_it_is_whole(tmp_path):
    data = bytes(range(40))
    earlier = Broadcast(BlobStore(tmp_path), topics=Topics("t"), chunk_bytes=16)
    ref = earlier.add("plan", data)
    later = Broadcast(BlobStore(tmp_path), topics=Topics("t"), chunk_bytes=16)
    assert not later.has(ref)
    assert later.know(ref)
    later.push([ref])
    assert len(later.tick(0.0)) == 3
    (path,) = tmp_path.iterdir()
    path.write_bytes(data[:-1] + b"?")
    # Damaged while it is held: nothing is sent, and it counts as gone.
    later.push([ref])
    assert later.tick(1.0) == []
    assert not later.has(ref)
    assert not Broadcast(BlobStore(tmp_path), topics=Topics("t"), chunk_bytes=16).know(ref)


def test_no_more_is_sent_than_the_link_has_room_for():
    room = [0.0]
    broadcast = Broadcast(BlobStore(), topics=Topics("t"), chunk_bytes=16, room=lambda: room[0])
    data = bytes(range(100))
    broadcast.push([broadcast.add("plan", data)])
    assert broadcast.tick(5.0) == []
    assert broadcast.wake_at == 5.0 + ROOM_PAUSE_S
    room[0] = 30.0
    sent = chunks(broadcast.tick(5.1))
    room[0] = 1e9
    sent += chunks(broadcast.tick(5.2))
    assert b"".join(part for _, _, part in sent) == data
    assert broadcast.wake_at is None


def test_a_rate_spreads_a_push_over_time_and_the_end_waits_for_it():
    data = bytes(250 - 9 * 10) + bytes(160)
    broadcast = Broadcast(BlobStore(), topics=Topics("t"), chunk_bytes=16, max_bytes_per_s=100.0)
    broadcast.push([broadcast.add("plan", data)])
    now, sent = 50.0, 0
    while broadcast.wake_at is not None:
        now = max(now, broadcast.wake_at)
        sent += sum(len(p.payload) for p in broadcast.tick(now))
        assert broadcast.busy_until >= now
        assert sent <= 100 * (now - 50.0) + 2 * 25
    assert sent == 320 + 20 * 9
    assert now == pytest.approx(50.0 + sent / 100, abs=0.5)


def test_a_blob_is_read_once_for_all_of_its_chunks(tmp_path):
    class Counting(BlobStore):
        reads = 0

        def get(self, digest):
            Counting.reads += 1
            return super().get(digest)

    broadcast = Broadcast(Counting(tmp_path), topics=Topics("t"), chunk_bytes=16)
    broadcast.push([broadcast.add("plan", bytes(range(200)))])
    before = Counting.reads
    assert len(broadcast.tick(0.0)) == 13
    assert Counting.reads == before + 1


# -- routes -----------------------------------------------------------------------------------------------


def first_state():
    weights = np.arange(600, dtype=np.float32) / 64
    return ServerState(version=0, mask=Mask.dense(LAYOUT), weights=weights, published=weights.copy())


def next_state(state, routes, *, codec, change):
    weights = state.weights + np.float32(change)
    following, steps = stepped(state, weights, mask=state.mask, codec=codec_from_config({"codec_id": codec}))
    routes.add(following.version, steps)
    return following


def test_the_cheaper_of_steps_and_keyframe_is_taken(broadcast):
    routes = Routes(broadcast)
    state = first_state()
    routes.add(0, keyframe(state))
    for _ in range(3):
        state = next_state(state, routes, codec="fp16", change=1 / 64)
    whole = sum(ref.size for ref in routes.to(state, version=FROM_NOTHING).steps)
    for version, num_steps, base in [
        (2, 1, 2),
        (1, 2, 1),
        (0, 2, FROM_NOTHING),
        (FROM_NOTHING, 2, FROM_NOTHING),
    ]:
        route = routes.to(state, version=version)
        size = sum(ref.size for ref in route.steps)
        assert (route.version, len(route.steps), route.base_version) == (3, num_steps, base)
        assert size <= whole
    # Two steps of 16 bits are just below a keyframe of 32 bits and its mask; three are above.
    assert [ref.kind for ref in routes.to(state, version=1).steps] == ["model_delta", "model_delta"]
    assert [ref.kind for ref in routes.to(state, version=0).steps] == ["mask", "keyframe"]


def test_a_client_that_is_there_already_but_asks_gets_a_whole_model(broadcast):
    routes = Routes(broadcast)
    state = first_state()
    routes.add(0, keyframe(state))
    route = routes.to(state, version=0)
    assert route.base_version == FROM_NOTHING
    assert [ref.kind for ref in route.steps] == ["mask", "keyframe"]


def test_a_route_names_only_blobs_that_can_be_sent(broadcast):
    routes = Routes(broadcast)
    state = first_state()
    routes.add(0, keyframe(state))
    routes.to(state, version=FROM_NOTHING)
    for _ in range(3):
        state = next_state(state, routes, codec="topk", change=0.0)
        broadcast.keep(routes.in_use())
        for version in range(FROM_NOTHING, state.version):
            assert all(map(broadcast.has, routes.to(state, version=version).steps))
        broadcast.keep(routes.in_use())
        assert all(map(broadcast.has, routes.latest(state)[0]))


def test_a_step_that_is_damaged_meanwhile_is_led_around(tmp_path):
    broadcast = Broadcast(BlobStore(tmp_path), topics=Topics("t"), chunk_bytes=16)
    routes = Routes(broadcast)
    state = first_state()
    routes.add(0, keyframe(state))
    for _ in range(2):
        state = next_state(state, routes, codec="topk", change=1 / 64)
    (lost,) = routes.to(state, version=1).steps
    (tmp_path / f"{lost.digest.hex()}.blob").write_bytes(b"rotten")
    broadcast.push([lost])
    assert broadcast.tick(0.0) == []
    for version in (0, 1):
        assert [ref.kind for ref in routes.to(state, version=version).steps] == ["mask", "keyframe"]
    assert routes.latest(state)[1] == FROM_NOTHING


def test_two_versions_may_share_a_step_and_the_older_may_go(broadcast):
    routes = Routes(broadcast)
    state = first_state()
    routes.add(0, keyframe(state))
    # Nothing changes from version to version, so every step is the same blob.
    for _ in range(HISTORY_VERSIONS + 3):
        state = next_state(state, routes, codec="float32", change=0.0)
        broadcast.keep(routes.in_use())
    steps, base = routes.latest(state)
    assert base == state.version - 1
    assert broadcast.has(steps[0])
    assert len({ref.digest for ref in routes.in_use()}) == 1


def test_the_history_survives_a_restart_as_far_as_its_blobs_do(tmp_path):
    def fresh():
        broadcast = Broadcast(BlobStore(tmp_path), topics=Topics("t"), chunk_bytes=16)
        return broadcast, Routes(broadcast)

    _, routes = fresh()
    state = first_state()
    routes.add(0, keyframe(state))
    for _ in range(3):
        state = next_state(state, routes, codec="topk", change=1 / 64)
    _, again = fresh()
    again.recall(routes.notes())
    assert again.latest(state) == routes.latest(state)
    assert again.to(state, version=1) == routes.to(state, version=1)
    lost = routes.latest(state)[0][0]
    (tmp_path / f"{lost.digest.hex()}.blob").unlink()
    broadcast, led_around = fresh()
    led_around.recall(routes.notes())
    steps, base = led_around.latest(state)
    assert base == FROM_NOTHING
    assert [ref.kind for ref in steps] == ["mask", "keyframe"]
    assert all(map(broadcast.has, steps))
