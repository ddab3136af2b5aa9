"""The way up, and everything that must not get in: the open round takes what is right and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerow_codecs import FrameKind, Mask, codec_from_config, encode_frame, max_frame_bytes
from hedgerow_coordinator import intake
from hedgerow_coordinator.coordinator import MAX_GARBAGE_NOTICES
from hedgerow_coordinator.phases.close import LINGER_S, LONGEST_LINGER_S
from hedgerow_coordinator.quarantine import MAX_BAD, QUARANTINE_S
from hedgerow_coordinator.server_model import published_digest
from hedgerow_transport import (
    Accept,
    Ack,
    BlobRef,
    Decline,
    Need,
    Offer,
    Presence,
    Rebirth,
    Route,
    Sync,
    blob_digest,
    decode_down,
    encode_chunk,
    indices,
    parse_topic,
)


class Desk:
    """A coordinator with an open round, spoken to by hand."""

    def __init__(self, rig):
        self.rig, self.coordinator, self.topics = rig, rig.coordinator, rig.topics
        rig.coordinator.connected()
        rig.coordinator.start(0.0)

    def join(self, *names, session=1):
        for name in names:
            word = Presence(client=name, session=session, online=True)
            self.say(self.topics.presence(name), word.encode())
        return self

    def say(self, topic, payload, *, now=1.0):
        """Return what the coordinator answers to this one message, as (client, message)."""
        self.coordinator.take_publications()
        self.coordinator.handle(topic, payload, now=now)
        answers = [
            (parsed.client, decode_down(p.payload))
            for p in self.coordinator.take_publications()
            if (parsed := parse_topic(p.topic)).kind == "down"
        ]
        # Whoever has not said that it is here is asked for that, too.
        return [(client, answer) for client, answer in answers if not isinstance(answer, Rebirth)]

    def frame(self, change=0.5, *, mask=None, base=None):
        state = self.coordinator.state
        mask = mask or state.mask
        return encode_frame(
            np.full(mask.num_live, change, np.float32),
            kind=FrameKind.UPDATE,
            mask=mask,
            base=base or published_digest(state),
            codec=codec_from_config({"codec_id": "float32"}),
        )

    def offer_of(self, frame, **changes):
        offer = Offer(
            run="trial",
            round=1,
            update=BlobRef(kind="update", digest=blob_digest(frame), size=len(frame)),
            num_samples=10,
            chunk_bytes=64,
        )
        return replace(offer, **changes)

    def offer(self, client, offer, *, now=1.0):
        ((receiver, answer),) = self.say(self.topics.up(client, "offer"), offer.encode(), now=now)
        assert receiver == client
        return answer

    def chunk(self, client, frame, index, *, step=64):
        payload = encode_chunk(index, frame[index * step : (index + 1) * step])
        return self.say(self.topics.up(client, "chunk"), payload)

    def deliver(self, client, frame):
        """Offer a frame and send all chunks; return the last answer."""
        assert isinstance(self.offer(client, self.offer_of(frame)), Accept)
        answers = [answer for i in range(-(-len(frame) // 64)) for answer in self.chunk(client, frame, i)]
        return answers[-1][1]

    @property
    def updates(self):
        return [(r.client, r.num_samples) for r in self.rig.store.update_records()]


@pytest.fixture
def desk(make_plan, make_rig):
    return Desk(make_rig(make_plan(rounds=3, density=0.5, min_clients=3), "")).join("a", "b", "c")


def test_an_update_is_asked_for_stored_and_acknowledged(desk):
    frame = desk.frame()
    accept = desk.offer("a", desk.offer_of(frame))
    assert (accept.digest, indices(accept.have)) == (blob_digest(frame), [])
    desk.chunk("a", frame, 2)
    assert indices(desk.offer("a", desk.offer_of(frame)).have) == [2]
    for index in range(-(-len(frame) // 64)):
        answers = desk.chunk("a", frame, index)
    assert answers == [("a", Ack(run="trial", round=1, digest=blob_digest(frame), status="accepted"))]
    assert desk.updates == [("a", 10)]
    assert desk.coordinator.num_ignored == 0


def test_an_offer_again_after_its_acknowledgement_is_a_duplicate(desk):
    frame = desk.frame()
    assert desk.deliver("a", frame).status == "accepted"
    assert desk.offer("a", desk.offer_of(frame)).status == "duplicate"
    assert desk.chunk("a", frame, 0) == []
    assert desk.updates == [("a", 10)]


def test_a_second_different_update_of_the_same_client_is_refused(desk):
    desk.deliver("a", desk.frame(0.5))
    ack = desk.offer("a", desk.offer_of(desk.frame(0.25)))
    assert (ack.status, ack.reason) == ("refused", "another update of this round is already taken")
    assert desk.updates == [("a", 10)]


def test_offers_of_other_rounds_and_runs_are_refused(desk):
    frame = desk.frame()
    for name in "ab":
        desk.deliver(name, frame)
    assert desk.coordinator.state.version == 0
    desk.deliver("c", frame)
    assert desk.coordinator.state.version == 1
    # A round that is closed: what was used is told apart from what came too late.
    assert desk.offer("a", desk.offer_of(frame)).status == "duplicate"
    assert desk.offer("a", desk.offer_of(desk.frame(0.25))).status == "late"
    assert desk.offer("d", desk.offer_of(frame)).status == "late"
    assert desk.offer("a", desk.offer_of(frame, round=3)).status == "refused"
    ack = desk.offer("a", desk.offer_of(frame, run="other"))
    assert (ack.run, ack.status, ack.reason) == ("other", "refused", "this is run 'trial'")
    assert len(desk.updates) == 3
    # All of them are counted, and shown in the report.
    assert desk.coordinator.num_ignored == 4
    shown = [event.detail for event in desk.coordinator._federation.store.events() if event.kind == "refused"]
    assert shown[:2] == [f"an update of {name}: it is late: this is round 2" for name in "ad"]
    assert shown[2:] == [f"an update of a: this is {what}" for what in ("round 2", "run 'trial'")]


def test_an_update_that_claims_too_much_is_refused_before_a_byte_of_it_comes(desk):
    size = max_frame_bytes(desk.rig.layout) + 1
    ref = BlobRef(kind="update", digest=bytes(16), size=size)
    assert desk.offer("a", desk.offer_of(b"x", update=ref)).status == "refused"
    assert desk.chunk("a", bytes(64), 0) == []


def test_a_frame_under_another_mask_or_model_is_refused(desk):
    layout = desk.rig.layout
    live = np.ones(layout.num_parameters, bool)
    live[0] = False
    for frame in (desk.frame(mask=Mask(layout=layout, live=live)), desk.frame(base=bytes(range(16)))):
        assert desk.deliver("a", frame).status == "refused"
    assert desk.deliver("b", b"no frame at all").status == "refused"
    assert desk.updates == []
    # Nobody is waited for any more when two of three have nothing that can be used.
    assert desk.deliver("c", desk.frame()).status == "accepted"
    assert desk.rig.store.rounds()[-1].reason.startswith("1 of 3 clients answered, the quorum is 2; a says:")


def test_wrong_chunks_are_counted_and_disturb_nobody(desk):
    frame = desk.frame()
    desk.offer("a", desk.offer_of(frame))
    last = -(-len(frame) // 64) - 1
    topic = desk.topics.up("a", "chunk")
    for payload in (
        encode_chunk(last + 1, frame[:64]),
        encode_chunk(0, frame[:63]),
        encode_chunk(last, frame[:64]),
        encode_chunk(0, frame[:64])[:-1],
        b"",
    ):
        assert desk.say(topic, payload) == []
    assert desk.coordinator.num_ignored == 5
    # A wrong chunk in the right place: the whole is asked for again.
    desk.say(topic, encode_chunk(0, bytes(64)))
    for index in range(1, last + 1):
        assert desk.chunk("a", frame, index) == []
    assert desk.coordinator.num_ignored == 6
    assert indices(desk.offer("a", desk.offer_of(frame)).have) == []
    assert desk.deliver("a", frame).status == "accepted"


def test_an_offer_with_another_chunk_size_starts_again(desk):
    frame = desk.frame()
    desk.offer("a", desk.offer_of(frame))
    desk.chunk("a", frame, 0)
    accept = desk.offer("a", desk.offer_of(frame, chunk_bytes=100))
    assert indices(accept.have) == []
    for index in range(-(-len(frame) // 100)):
        answers = desk.chunk("a", frame, index, step=100)
    assert answers[0][1].status == "accepted"


def test_an_offer_with_impossible_chunks_is_garbage(desk):
    ref = BlobRef(kind="update", digest=bytes(16), size=1000)
    offer = desk.offer_of(b"x", update=ref, chunk_bytes=16)
    assert isinstance(desk.offer("a", offer), Accept)
    assert desk.say(desk.topics.up("a", "offer"), offer.encode() + b"x") == []
    assert desk.coordinator.num_ignored == 1


def test_only_the_cohort_may_offer(make_plan, make_rig):
    desk = Desk(make_rig(make_plan(clients_per_round=2, min_clients=3), "")).join("a", "b", "c")
    frame = desk.frame()
    answers = {name: desk.offer(name, desk.offer_of(frame)) for name in "abc"}
    refused = [name for name, answer in answers.items() if isinstance(answer, Ack)]
    assert len(refused) == 1
    assert answers[refused[0]].status == "refused"
    assert answers[refused[0]].reason == "this client is not in the round's cohort"
    assert desk.offer("stranger", desk.offer_of(frame)).status == "refused"
    invited = sorted(set("abc") - set(refused))
    assert [desk.deliver(name, frame).status for name in invited] == ["accepted", "accepted"]
    assert desk.coordinator.state.version == 1


def test_an_invitation_is_for_one_round(make_plan, make_rig):
    desk = Desk(make_rig(make_plan(clients_per_round=2, min_clients=3, seed=1), "")).join("a", "b", "c")
    cohorts = []
    for number in (1, 2, 3):
        frame = desk.frame()
        answers = {name: desk.offer(name, desk.offer_of(frame, round=number)) for name in "abc"}
        cohorts.append({name for name, answer in answers.items() if isinstance(answer, Accept)})
        for name in sorted(cohorts[-1]):
            for index in range(-(-len(frame) // 64)):
                desk.chunk(name, frame, index)
    assert cohorts == [{"a", "b"}, {"b", "c"}, {"a", "b"}]
    assert desk.coordinator.state.version == 3


def test_the_end_of_a_run_is_told_before_the_coordinator_leaves(make_plan, make_rig):
    desk = Desk(make_rig(make_plan(rounds=1), "")).join("a", "b", "c")
    frame = desk.frame()
    desk.deliver("a", frame)
    desk.deliver("b", frame)
    # The link goes with the last update; nobody hears that the run is over.
    desk.coordinator.disconnected()
    desk.deliver("c", frame)
    assert desk.coordinator.phase == "close"
    desk.coordinator.tick(100.0)
    assert not desk.coordinator.done
    desk.coordinator.connected()
    desk.coordinator.tick(200.0)
    assert not desk.coordinator.done
    desk.coordinator.tick(200.0 + LINGER_S)
    assert desk.coordinator.done


def test_the_last_version_stays_on_offer_as_long_as_somebody_asks(make_plan, make_rig):
    desk = Desk(make_rig(make_plan(rounds=1), "")).join("a", "b", "c")
    frame = desk.frame()
    for name in "abc":
        desk.deliver(name, frame)
    assert desk.coordinator.phase == "close"
    step = desk.coordinator._federation.routes.latest(desk.coordinator.state)[0][0]
    need = Need(digest=step.digest, bitmap=b"\x01").encode()
    for now in range(3, 2000, 2):
        desk.say(desk.topics.need, need, now=float(now))
        if desk.coordinator.done:
            break
    # Entered at 1 s; not even a client that never stops asking holds it for ever.
    assert now == 1 + LONGEST_LINGER_S
    assert desk.coordinator.wake_at is None


def test_the_coordinator_leaves_when_nobody_asks(make_plan, make_rig):
    desk = Desk(make_rig(make_plan(rounds=1), "")).join("a", "b", "c")
    frame = desk.frame()
    for name in "abc":
        desk.deliver(name, frame)
    desk.coordinator.tick(1 + LINGER_S - 0.1)
    assert not desk.coordinator.done
    assert desk.coordinator.wake_at == 1 + LINGER_S
    desk.coordinator.tick(1 + LINGER_S)
    assert desk.coordinator.done


def test_what_strangers_say_does_not_end_a_round(desk):
    for number in range(5):
        word = Decline(run="trial", round=1, reason="I do not like it")
        desk.say(desk.topics.up(f"stranger-{number}", "decline"), word.encode())
    assert desk.coordinator.phase == "collect"
    assert not any("stranger" in notice for notice in desk.coordinator.take_notices())


def test_a_decline_of_another_round_does_not_count(desk):
    for name in "abc":
        for run, number in (("trial", 2), ("other", 1)):
            word = Decline(run=run, round=number, reason="no")
            desk.say(desk.topics.up(name, "decline"), word.encode())
    assert desk.coordinator.phase == "collect"
    assert desk.rig.store.rounds()[-1].round == 0


def test_a_client_may_change_its_mind(desk):
    desk.say(desk.topics.up("a", "decline"), Decline(run="trial", round=1, reason="hot").encode())
    assert desk.deliver("a", desk.frame()).status == "accepted"
    desk.deliver("b", desk.frame())
    assert desk.coordinator.state.version == 0
    desk.deliver("c", desk.frame())
    assert desk.coordinator.state.version == 1


def test_a_client_that_offers_after_all_is_waited_for(desk):
    frame = desk.frame()
    for name in "ab":
        desk.say(desk.topics.up(name, "decline"), Decline(run="trial", round=1, reason="hot").encode())
    desk.offer("a", desk.offer_of(frame))
    desk.say(desk.topics.up("c", "decline"), Decline(run="trial", round=1, reason="hot").encode())
    assert desk.rig.store.rounds()[-1].round == 0
    # Its bytes are here, and still one is too few.
    desk.deliver("a", frame)
    assert desk.rig.store.rounds()[-1].reason.startswith("1 of 3 clients answered")


def test_samples_beyond_measure_weigh_no_more_than_the_most(desk):
    frame = desk.frame()
    desk.offer("a", desk.offer_of(frame, num_samples=2**40))
    for index in range(-(-len(frame) // 64)):
        desk.chunk("a", frame, index)
    assert desk.updates == [("a", 2**24)]


def test_claims_of_received_bytes_cannot_overflow_the_journal(desk):
    frame = desk.frame()
    for name in "abc":
        desk.offer(name, desk.offer_of(frame, received_bytes=2**53))
        for index in range(-(-len(frame) // 64)):
            desk.chunk(name, frame, index)
    for session in range(2, 600):
        now = float(session)  # more at once would be a flood
        birth = Presence(client="a", session=session, online=True)
        desk.say(desk.topics.presence("a"), birth.encode(), now=now)
        word = Presence(client="a", session=session, online=False, profile={"received_bytes": 2**53})
        desk.say(desk.topics.presence("a"), word.encode(), now=now)
    assert desk.rig.store.traffic()["delivered", "farewell"] == 598 * 2**44
    assert desk.rig.store.rounds()[1].delivered_bytes == 3 * 2**44


def test_updates_on_their_way_claim_a_bounded_room(desk, monkeypatch):
    bound = max_frame_bytes(desk.rig.layout)
    monkeypatch.setattr(intake, "MAX_INCOMING_BYTES", 3 * bound)

    def offer(name, now):
        frame = bytes([len(name)]) * bound
        payload = desk.offer_of(frame).encode()
        return desk.say(desk.topics.up(name, "offer"), payload, now=now)

    assert [len(offer("x" * n, 1.0)) for n in range(1, 6)] == [1, 1, 1, 0, 0]
    # Whoever goes on is kept; whoever has been silent for long makes room.
    assert len(offer("x", 25.0)) == 1
    assert len(offer("xxxx", 30.9)) == 0
    assert len(offer("xxxx", 31.1)) == 1
    assert len(offer("xxxxx", 31.1)) == 1
    assert len(offer("xx", 31.1)) == 0


def test_a_sync_is_answered_with_a_route_whatever_version_it_claims(desk):
    for version in (-1, 0, 7, 2**31 - 1):
        sync = Sync(version=version, model=bytes(16))
        ((client, route),) = desk.say(desk.topics.up("a", "sync"), sync.encode())
        assert client == "a"
        assert isinstance(route, Route)
        assert (route.version, route.base_version) == (0, -1)


def test_a_need_that_fits_no_blob_is_counted(desk):
    before = desk.coordinator.num_ignored
    desk.say(desk.topics.need, Need(digest=bytes(16), bitmap=b"\x01").encode())
    known = desk.coordinator._federation.routes.latest(desk.coordinator.state)[0][0]
    desk.say(desk.topics.need, Need(digest=known.digest, bitmap=bytes(100) + b"\x01").encode())
    desk.say(desk.topics.need, Need(digest=known.digest, bitmap=b"").encode())
    assert desk.coordinator.num_ignored == before + 3
    desk.say(desk.topics.need, Need(digest=known.digest, bitmap=b"\x01").encode())
    assert desk.coordinator.num_ignored == before + 3


def test_presence_under_another_name_is_garbage(desk):
    word = Presence(client="b", session=9, online=False)
    desk.say(desk.topics.presence("a"), word.encode())
    assert desk.coordinator.num_ignored == 1
    assert desk.coordinator._federation.attendance.online == ("a", "b", "c")


def test_who_sends_garbage_is_named_and_then_not_heard(desk):
    desk.coordinator.take_notices()
    for _ in range(50):
        desk.say(desk.topics.up("a", "offer"), b"\x00garbage")
    notices = desk.coordinator.take_notices()
    assert len(notices) == MAX_BAD + 2
    assert all("up/a/offer" in notice for notice in notices[: MAX_BAD + 1])
    assert notices[-1] == f"a is not heard for 5 minutes: {MAX_BAD} of its messages were garbage"
    assert desk.coordinator.num_ignored == 50
    # Nobody waits for it, and what it says that is right is dropped as well.
    frame = desk.frame()
    assert desk.say(desk.topics.up("a", "offer"), desk.offer_of(frame).encode()) == []
    assert desk.deliver("b", frame).status == "accepted"
    later = 2 + QUARANTINE_S
    assert desk.say(desk.topics.up("a", "offer"), desk.offer_of(frame).encode(), now=later) != []


def test_who_sends_without_end_is_not_heard(desk):
    frame = desk.frame()
    offers = [len(desk.say(desk.topics.up("a", "offer"), desk.offer_of(frame).encode())) for _ in range(400)]
    assert offers[0] > 0
    assert offers[-1] == 0
    assert "a is not heard for 5 minutes: it sends more than anybody needs to say" in (
        desk.coordinator.take_notices()
    )
    assert desk.deliver("b", frame).status == "accepted"


def test_a_flood_of_garbage_is_counted_and_not_printed(desk):
    desk.coordinator.take_notices()
    for _ in range(100):
        desk.say(desk.topics.need, b"\x00")
    assert desk.coordinator.num_ignored == 100
    assert len(desk.coordinator.take_notices()) == MAX_GARBAGE_NOTICES


WORDS = st.sampled_from(("offer", "chunk", "decline", "sync"))
NAMES = st.sampled_from(("a", "b", "stranger"))
SMALL_BYTES = st.binary(max_size=64)


def real_messages(desk):
    frame = desk.frame()
    return [
        desk.offer_of(frame).encode(),
        encode_chunk(0, frame[:64]),
        Decline(run="trial", round=2, reason="x").encode(),
        Sync(version=0, model=bytes(16)).encode(),
        Need(digest=bytes(16), bitmap=b"\x07").encode(),
        Presence(client="a", session=1, online=True, profile={"cores": 4}).encode(),
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_message_of_any_kind_is_an_exception(desk, data):
    topics, messages = desk.topics, real_messages(desk)
    for _ in range(25):
        topic = data.draw(
            st.one_of(
                st.builds(topics.up, NAMES, WORDS),
                st.builds(topics.presence, NAMES),
                st.just(topics.need),
                st.sampled_from(
                    [topics.manifest, topics.coordinator, topics.blob(bytes(16)), "x", "", "hedgerow/1"]
                ),
                st.text(max_size=20),
            )
        )
        payload = data.draw(
            st.one_of(SMALL_BYTES, st.sampled_from(messages), st.sampled_from(messages).flatmap(mangled))
        )
        desk.coordinator.handle(topic, payload, now=2.0)
        desk.coordinator.take_publications()
    assert desk.coordinator.failure is None


def mangled(message):
    """Return the message cut somewhere, or with one byte that is another."""
    places = st.integers(0, len(message) - 1)
    return st.one_of(
        st.builds(lambda place: message[:place], places),
        st.builds(
            lambda place, byte: message[:place] + bytes([byte]) + message[place + 1 :],
            places,
            st.integers(0, 255),
        ),
    )
