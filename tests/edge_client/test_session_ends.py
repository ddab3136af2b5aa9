"""A session over restarts, ends and other runs, and among hostile words."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.edge_client.conftest import TOPICS, Leader, kinds, only, said

from hedgerow_edge_client import (
    ClientState,
    Leave,
    MemoryState,
    Say,
    Snapshot,
)
from hedgerow_edge_client.session import FAREWELL_S, MAX_GARBAGE_NOTICES
from hedgerow_transport import (
    Accept,
    Ack,
    BlobRef,
    CoordinatorState,
    Need,
    Offer,
    Rebirth,
    Route,
    blob_digest,
    encode_chunk,
    indices,
)

# -- restarts, ends, other runs ---------------------------------------------------------------------------


def test_a_restarted_client_offers_the_same_bytes_again():
    leader = Leader()
    leader.lead()
    offer = said(leader.train(), Offer)
    restarted = Leader(memory=leader.memory)
    manifest = restarted.manifest()
    assert restarted.announce(manifest) == []
    again = said(restarted.send(manifest.plan), Offer)
    assert (again.update, again.num_samples, again.metrics) == (
        offer.update,
        offer.num_samples,
        offer.metrics,
    )
    restarted.ack(again, "duplicate")
    assert restarted.snapshot.residual.tobytes() == leader.snapshot.residual.tobytes()


def test_a_restarted_client_does_not_train_twice_for_a_round():
    leader = Leader()
    leader.lead()
    leader.ack(said(leader.train(), Offer))
    restarted = Leader(memory=leader.memory)
    assert restarted.lead() == []
    assert restarted.session.wake_at is None


def test_the_state_of_another_model_is_not_used():
    memory = MemoryState()
    ones, live = np.ones(3, np.float32), np.ones(3, bool)
    memory.save(Snapshot(run="r", layout=bytes(16), version=0, weights=ones, live=live, residual=ones))
    leader = Leader(memory=memory)
    assert kinds(leader.lead()) == ["Say", "StartTraining"]


def test_another_run_begins_from_nothing():
    leader = Leader()
    leader.lead()
    leader.session.training_failed("nan")
    actions = leader.lead(leader.manifest(run="r2"))
    # The same round and attempt was declined in the run before: that was another one.
    assert kinds(actions) == ["Say", "StartTraining"]
    assert leader.snapshot.run == "r2"


def test_another_run_forgets_the_update_of_the_one_before():
    leader = Leader()
    leader.lead()
    leader.train()
    leader.lead(leader.manifest(run="r2"))
    assert leader.snapshot.pending is None
    assert leader.session.wake_at is None


def test_a_client_for_one_run_leaves_with_the_last_version():
    leader = Leader(once=True)
    leader.lead()
    leader.ack(said(leader.train(), Offer))
    manifest = leader.manifest(1, "finished", steps=leader.step(1), base_version=0)
    leave = only(leader.lead(manifest), Leave)
    assert (leave.reason, leave.failed) == ("run 'r' is finished", False)
    assert leader.snapshot.version == 1


def test_a_client_for_one_run_does_not_wait_for_ever_for_the_last_version():
    leader = Leader(once=True)
    manifest = leader.manifest(1, "failed", reason="no quorum")
    leader.announce(manifest, now=100.0)
    assert leader.session.tick(100.0 + FAREWELL_S - 0.1) != []
    leave = only(leader.session.tick(100.0 + FAREWELL_S), Leave)
    assert (leave.reason, leave.failed) == ("run 'r' failed: no quorum", True)


def test_a_new_run_within_the_farewell_keeps_the_client():
    leader = Leader(once=True)
    leader.announce(leader.manifest(1, "finished"), now=100.0)
    leader.announce(leader.manifest(0, "waiting", run="r2"), now=102.0)
    assert not any(isinstance(a, Leave) for a in leader.session.tick(100.0 + FAREWELL_S))


def test_a_client_for_all_runs_stays_and_says_so_once():
    leader = Leader()
    leader.lead()
    leader.train()
    manifest = leader.manifest(1, "finished", steps=leader.step(1), base_version=0)
    assert leader.lead(manifest) == [Say(text="run 'r' is finished; waiting for the next run")]
    assert leader.lead(manifest) == []
    assert leader.snapshot.version == 1
    assert leader.session.wake_at is None


# -- hostile words ----------------------------------------------------------------------------------------


def test_a_flood_of_garbage_is_not_printed():
    leader = Leader()
    told = [leader.hear(TOPICS.manifest, b"\xc1") for _ in range(100)]
    assert [kinds(actions) for actions in told] == [["Say"]] * MAX_GARBAGE_NOTICES + [[]] * (
        100 - MAX_GARBAGE_NOTICES
    )


def test_an_impossible_blob_is_garbage():
    leader = Leader()
    huge = BlobRef(kind="keyframe", digest=bytes(16), size=2**32 - 1)
    actions = leader.announce(leader.manifest(steps=(huge,), chunk_bytes=16))
    assert only(actions, Say).level == "warning"
    assert kinds(leader.lead(leader.manifest())) == ["StartTraining"]


def test_a_cleared_manifest_is_no_manifest():
    assert Leader().hear(TOPICS.manifest, b"") == []


def mangled(message):
    places = st.integers(0, len(message) - 1)
    return st.one_of(
        st.builds(lambda place: message[:place], places),
        st.builds(
            lambda place, byte: message[:place] + bytes([byte]) + message[place + 1 :],
            places,
            st.integers(0, 255),
        ),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_message_of_any_kind_is_an_exception(data):
    leader = Leader()
    manifest = leader.manifest()
    if data.draw(st.booleans()):
        leader.lead(manifest)
        leader.train()
    pending = b"?" if leader.memory.load() is None else leader.snapshot.pending.frame
    digest = blob_digest(pending)
    refs = (*leader.step(1), *manifest.steps)
    messages = [
        manifest.encode(),
        leader.manifest(1, steps=leader.step(1), base_version=0).encode(),
        Accept(run="r", round=1, digest=digest).encode(),
        Ack(run="r", round=1, digest=digest, status="accepted").encode(),
        Route(version=0, steps=refs, base_version=-1).encode(),
        CoordinatorState(run="r", session=1, online=True).encode(),
        encode_chunk(0, leader.blobs[manifest.plan.digest][:64]),
        encode_chunk(1, bytes(64)),
    ]
    topics = [TOPICS.manifest, TOPICS.coordinator, TOPICS.down("pi"), TOPICS.down("other"), TOPICS.need]
    topics += [TOPICS.blob(ref.digest) for ref in (manifest.plan, *refs)]
    for number in range(20):
        topic = data.draw(st.one_of(st.sampled_from(topics), st.text(max_size=20)))
        payload = data.draw(
            st.one_of(
                st.binary(max_size=64), st.sampled_from(messages), st.sampled_from(messages).flatmap(mangled)
            )
        )
        leader.session.handle(topic, payload, now=float(number))
        leader.session.tick(float(number))


def test_a_restarted_client_asks_for_nothing_that_it_has_on_disk(tmp_path):
    first = ClientState(tmp_path)
    leader = Leader(memory=first)
    manifest = leader.manifest(0, "waiting")
    leader.announce(manifest)
    leader.send(manifest.plan, manifest.steps[0])
    # Of the keyframe only the first chunk; then the power fails.
    keyframe = leader.blobs[manifest.steps[1].digest]
    leader.hear(TOPICS.blob(manifest.steps[1].digest), encode_chunk(0, keyframe[:64]))
    first.close()
    second = ClientState(tmp_path)
    again = Leader(memory=second)
    again.announce(manifest)
    need = said(again.session.tick(100.0), Need)
    num_chunks = -(-len(keyframe) // 64)
    assert (need.digest, indices(need.bitmap)) == (manifest.steps[1].digest, list(range(1, num_chunks)))
    again.blobs = leader.blobs
    again.send(manifest.steps[1])
    assert again.snapshot.version == 0
    # The model is in the state now; of the blobs only the plan is kept.
    assert [path.stem for path in second.blobs.iterdir()] == [manifest.plan.digest.hex()]
    second.close()


def test_a_birth_that_is_asked_for_is_said_again():
    leader = Leader()
    born = leader.session.presence(online=True)
    assert leader.session.handle(TOPICS.down("pi"), Rebirth().encode(), now=0.0) == [born]
    assert leader.session.handle(TOPICS.down("other"), Rebirth().encode(), now=0.0) == []
