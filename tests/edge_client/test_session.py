"""One client's session, led by hand: what it does with every word of a coordinator, good or bad."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    NO_BASE,
    Ef21Feedback,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    encode_frame,
    encode_mask,
    model_digest,
)
from hedgerow_edge_client import (
    CancelTraining,
    ClientSession,
    ClientState,
    Leave,
    MemoryState,
    Say,
    Snapshot,
    StartTraining,
    TrainResult,
)
from hedgerow_edge_client.session import FAREWELL_S, MAX_GARBAGE_NOTICES, MAX_WRONG_MODELS
from hedgerow_transport import (
    Accept,
    Ack,
    BlobRef,
    CoordinatorState,
    Decline,
    Manifest,
    Need,
    Offer,
    Presence,
    Publication,
    Rebirth,
    RoundPlan,
    Route,
    Sync,
    Topics,
    blob_digest,
    decode_chunk,
    decode_message,
    encode_chunk,
    encode_cohort,
    indices,
    parse_topic,
)

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="w", shape=(4, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(4,), kind="bias", prunable=False),
    )
)
TOPICS = Topics("t")
DENSE = Mask.dense(LAYOUT)
THIN = Mask(layout=LAYOUT, live=np.arange(16) >= 6)
FLOAT32 = codec_from_config({"codec_id": "float32"})


class Leader:
    """A coordinator that knows the model of every version: all weights are the version."""

    def __init__(self, client="pi", *, memory=None, once=False, plan=None):
        self.memory = memory or MemoryState()
        self.received = 0
        self.plan = RoundPlan(
            seed=1, epochs=1, batch_size=4, learning_rate=0.1, codec={"codec_id": "uniform"}, max_seconds=0.0
        )
        self.plan = replace(self.plan, **(plan or {}))
        self.session = ClientSession(
            client,
            layout=LAYOUT,
            topics=TOPICS,
            memory=self.memory,
            session=self.memory.next_session(),
            profile={"cores": 4},
            jitter=lambda: 0.0,
            received_bytes=lambda: self.received,
            once=once,
        )
        self.blobs = {}

    def blob(self, kind, data):
        ref = BlobRef(kind=kind, digest=blob_digest(data), size=len(data))
        self.blobs[ref.digest] = data
        return ref

    @staticmethod
    def weights(version, mask=DENSE):
        return np.where(mask.live, np.float32(version), np.float32(0))

    def keyframe(self, version, mask=DENSE):
        frame = encode_frame(
            mask.gather(self.weights(version, mask)),
            kind=FrameKind.KEYFRAME,
            mask=mask,
            base=NO_BASE,
            codec=FLOAT32,
        )
        return self.blob("mask", encode_mask(mask)), self.blob("keyframe", frame)

    def step(self, version, mask=DENSE, before=DENSE):
        """Return the way from the version before."""
        refs = ()
        if mask != before:
            refs = (self.blob("mask_delta", encode_mask(mask, previous=before)),)
        frame = encode_frame(
            np.ones(mask.num_live, np.float32),
            kind=FrameKind.MODEL_DELTA,
            mask=mask,
            base=model_digest(self.weights(version - 1, before), mask=before),
            codec=FLOAT32,
        )
        return (*refs, self.blob("model_delta", frame))

    def manifest(self, version=0, state="round", *, mask=DENSE, **changes):
        plan = self.blob("plan", self.plan.encode())
        manifest = Manifest(
            run="r",
            state=state,
            round=version + 1,
            attempt=1,
            version=version,
            layout=LAYOUT.digest,
            mask=mask.digest,
            model=model_digest(self.weights(version, mask), mask=mask),
            plan=plan,
            steps=self.keyframe(version, mask),
            base_version=-1,
            deadline_s=600.0,
            chunk_bytes=64,
        )
        return replace(manifest, **changes)

    def hear(self, topic, message, *, now=0.0):
        payload = message if isinstance(message, bytes) else message.encode()
        return self.session.handle(topic, payload, now=now)

    def announce(self, manifest=None, *, now=0.0):
        return self.hear(TOPICS.manifest, manifest or self.manifest(), now=now)

    def send(self, *refs, now=0.0):
        """Broadcast blobs whole."""
        actions = []
        for ref in refs:
            data = self.blobs[ref.digest]
            for index in range(-(-len(data) // 64)):
                payload = encode_chunk(index, data[64 * index : 64 * index + 64])
                actions += self.hear(TOPICS.blob(ref.digest), payload, now=now)
        return actions

    def lead(self, manifest=None, *, now=0.0):
        """Announce and send all that the manifest names."""
        manifest = manifest or self.manifest()
        actions = self.announce(manifest, now=now)
        return actions + self.send(manifest.plan, *manifest.steps, now=now)

    def train(self, change=0.25, *, now=0.0, **changes):
        snapshot = self.snapshot
        weights = snapshot.weights + np.where(snapshot.live, np.float32(change), np.float32(0))
        result = TrainResult(weights=weights, num_samples=9, loss=0.5, accuracy=0.75, steps=3, seconds=1.5)
        return self.session.trained(replace(result, **changes), now=now)

    def down(self, message, *, now=0.0):
        return self.hear(TOPICS.down("pi"), message, now=now)

    def ack(self, offer, status="accepted", *, now=0.0):
        word = Ack(run="r", round=offer.round, digest=offer.update.digest, status=status, reason="why")
        return self.down(word, now=now)

    @property
    def snapshot(self) -> Snapshot:
        snapshot = self.memory.load()
        assert snapshot is not None
        return snapshot


def kinds(actions):
    return [
        parse_topic(action.topic).kind if isinstance(action, Publication) else type(action).__name__
        for action in actions
    ]


def said(actions, message):
    """Return the one publication of a message type, decoded."""
    names = {Offer: "offer", Decline: "decline", Sync: "sync", Need: "need"}
    (found,) = [
        decode_message(a.payload, message)
        for a in actions
        if isinstance(a, Publication) and parse_topic(a.topic).kind == names[message]
    ]
    return found


def only(actions, kind):
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


# -- the model and the training ---------------------------------------------------------------------------


def test_a_connection_begins_with_the_birth():
    leader = Leader()
    (birth,) = leader.session.connected(0.0)
    assert birth.retain
    assert decode_message(birth.payload, Presence) == Presence(
        client="pi", session=1, online=True, profile={"cores": 4}
    )
    will = leader.session.presence(online=False)
    assert decode_message(will.payload, Presence) == Presence(client="pi", session=1, online=False)


def test_a_client_fetches_plan_and_model_and_trains():
    leader = Leader()
    manifest = leader.manifest(3)
    assert kinds(leader.announce(manifest)) == ["Say"]
    assert leader.send(*manifest.steps) == []
    (start,) = leader.send(manifest.plan)
    request = start.request
    assert (request.round, request.epochs, request.batch_size, request.learning_rate) == (4, 1, 4, 0.1)
    assert request.weights.tolist() == [3.0] * 16
    assert request.live.all()
    snapshot = leader.snapshot
    assert (snapshot.run, snapshot.version, snapshot.done_round) == ("r", 3, 0)


def test_training_seeds_differ_between_rounds_and_clients():
    seeds = set()
    for client in ("pi", "pi-2"):
        for version in (0, 1):
            leader = Leader(client)
            seeds.add(only(leader.lead(leader.manifest(version)), StartTraining).request.seed)
    again = Leader("pi")
    assert len(seeds) == 4
    assert only(again.lead(), StartTraining).request.seed in seeds


def test_an_update_is_saved_before_it_is_offered_and_sent_when_accepted():
    leader = Leader()
    leader.lead(leader.manifest(3))
    leader.received = 500
    actions = leader.train(0.25)
    offer = said(actions, Offer)
    pending = leader.snapshot.pending
    assert (pending.round, pending.num_samples, pending.train_s) == (4, 9, 1.5)
    assert (offer.run, offer.round, offer.num_samples, offer.train_s) == ("r", 4, 9, 1.5)
    assert (offer.metrics, offer.received_bytes) == ({"loss": 0.5, "accuracy": 0.75}, 500)
    assert offer.update.digest == blob_digest(pending.frame)
    base = model_digest(leader.weights(3), mask=DENSE)
    update = decode_frame(pending.frame, kind=FrameKind.UPDATE, mask=DENSE, base=base)
    assert update.values() == pytest.approx(np.full(16, 0.25), rel=0.01)
    word = Accept(run="r", round=4, digest=offer.update.digest)
    chunks = [decode_chunk(p.payload) for p in leader.down(word)]
    assert b"".join(data for _, data in chunks) == pending.frame
    assert kinds(leader.ack(offer)) == ["Say"]
    assert leader.snapshot.pending is None
    assert leader.snapshot.done_round == 4
    # Repeated words change nothing.
    assert leader.ack(offer) == leader.ack(offer, "refused") == leader.down(word) == []
    assert leader.session.wake_at is None


def test_the_same_manifest_again_changes_nothing():
    leader = Leader()
    manifest = leader.manifest()
    leader.lead(manifest)
    assert leader.announce(manifest) == []


def test_only_who_is_invited_trains():
    leader = Leader()
    manifest = leader.manifest(cohort=encode_cohort(["other", "another"]))
    assert kinds(leader.lead(manifest)) == ["Say"]
    assert leader.snapshot.version == 0
    assert kinds(leader.announce(leader.manifest(cohort=encode_cohort(["pi"]), attempt=2))) == [
        "StartTraining"
    ]


def test_the_next_version_is_reached_by_its_step_alone():
    leader = Leader()
    leader.lead(leader.manifest(0))
    leader.ack(said(leader.train(), Offer))
    manifest = leader.manifest(1, mask=THIN, steps=leader.step(1, THIN), base_version=0)
    request = only(leader.lead(manifest), StartTraining).request
    assert request.weights.tolist() == [0.0] * 6 + [1.0] * 10
    assert request.live.tolist() == [False] * 6 + [True] * 10


def test_a_client_that_missed_versions_asks_for_the_way():
    leader = Leader()
    leader.lead(leader.manifest(0, "waiting"))
    manifest = leader.manifest(3, steps=leader.step(3), base_version=2)
    sync = said(leader.announce(manifest, now=10.0), Sync)
    assert (sync.version, sync.model) == (0, model_digest(leader.weights(0), mask=DENSE))
    steps = (*leader.step(1), *leader.step(2), *leader.step(3))
    # Routes that do not fit are not taken; the question is asked again.
    assert leader.down(Route(version=2, steps=steps[:2], base_version=0)) == []
    assert leader.down(Route(version=3, steps=steps[1:], base_version=1)) == []
    assert kinds(leader.session.tick(13.0)) == ["sync"]
    assert leader.down(Route(version=3, steps=steps, base_version=0), now=13.1) == []
    assert kinds(leader.send(*steps, now=13.2)) == ["StartTraining"]
    assert leader.snapshot.version == 3
    assert leader.session.wake_at is None


def test_missing_chunks_are_asked_for():
    leader = Leader()
    manifest = leader.manifest()
    leader.announce(manifest, now=1.0)
    leader.send(manifest.plan, manifest.steps[0], now=1.1)
    wake = leader.session.wake_at
    assert wake > 1.1
    need = said(leader.session.tick(wake), Need)
    assert need.digest == manifest.steps[1].digest


def test_a_new_manifest_does_not_throw_away_what_has_arrived():
    leader = Leader()
    manifest = leader.manifest(0, "waiting")
    leader.announce(manifest)
    leader.send(*manifest.steps)
    again = replace(manifest, state="round")
    assert leader.announce(again) == []
    assert kinds(leader.send(manifest.plan)) == ["StartTraining"]


def test_a_model_that_comes_out_wrong_is_asked_for_whole():
    leader = Leader()
    leader.lead(leader.manifest(0, "waiting"))
    snapshot = leader.snapshot
    damaged = replace(snapshot, weights=snapshot.weights + np.float32(1))
    memory = MemoryState()
    memory.save(damaged)
    restarted = Leader(memory=memory)
    manifest = restarted.manifest(1, steps=restarted.step(1), base_version=0)
    actions = restarted.lead(manifest)
    assert "does not fit" in only(actions, Say).text
    assert said(actions, Sync).version == -1
    whole = restarted.keyframe(1)
    restarted.down(Route(version=1, steps=whole, base_version=-1))
    assert kinds(restarted.send(*whole)) == ["StartTraining"]
    assert restarted.snapshot.weights.tolist() == [1.0] * 16


def test_a_model_that_never_comes_out_right_ends_the_client():
    leader = Leader()
    manifest = leader.manifest(1, model=bytes(range(16)))
    actions = leader.lead(manifest)
    for _ in range(MAX_WRONG_MODELS - 1):
        assert said(actions, Sync).version == -1
        leader.down(Route(version=1, steps=manifest.steps, base_version=-1))
        actions = leader.send(*manifest.steps)
    leave = only(actions, Leave)
    assert leave.failed
    assert f"{MAX_WRONG_MODELS} times" in leave.reason


def test_another_model_than_the_tasks_is_refused_with_a_sentence():
    leader = Leader()
    leave = only(leader.announce(leader.manifest(layout=bytes(16))), Leave)
    assert leave.failed
    assert "the model of this task is not the one of run 'r'" in leave.reason


# -- what does not become an update -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"weights": np.full(16, np.nan, np.float32)},
        {"weights": np.full(16, np.inf, np.float32)},
    ],
)
def test_a_result_that_is_not_finite_is_declined(changes):
    leader = Leader()
    leader.lead()
    actions = leader.train(**changes)
    decline = said(actions, Decline)
    assert (decline.run, decline.round) == ("r", 1)
    assert decline.reason.startswith("training has made no update")
    assert leader.snapshot.pending is None
    # The decline is said once an attempt, and once more on a new link or to a new coordinator.
    assert leader.announce(leader.manifest()) == []
    assert kinds(leader.session.connected(1.0)) == ["presence", "decline"]
    state = CoordinatorState(run="r", session=2, online=True)
    assert kinds(leader.hear(TOPICS.coordinator, state)) == ["decline"]
    assert kinds(leader.announce(leader.manifest(attempt=2))) == ["StartTraining"]
    assert kinds(leader.session.connected(1.0)) == ["presence"]


def test_an_accuracy_that_is_not_finite_is_left_out():
    leader = Leader()
    leader.lead()
    assert said(leader.train(accuracy=float("nan")), Offer).metrics == {"loss": 0.5}


def test_a_reason_for_a_person_may_hold_anything():
    leader = Leader()
    leader.lead()
    decline = said(leader.session.training_failed("line one\nline two \x1b[31m" + "ü" * 400), Decline)
    assert decline.reason.startswith("line one line two")


def test_a_plan_that_makes_no_training_is_declined():
    leader = Leader(plan={"learning_rate": 0.0})
    assert said(leader.lead(), Decline).reason == (
        "the run's plan cannot be carried out: learning_rate must be above 0, got 0.0"
    )


def test_a_codec_that_is_not_known_here_ends_the_client():
    leader = Leader(plan={"codec": {"codec_id": "wavelet"}})
    leave = only(leader.lead(), Leave)
    assert leave.failed
    assert "codec" in leave.reason


def test_a_round_that_closes_stops_the_training():
    leader = Leader()
    leader.lead(leader.manifest(0))
    actions = leader.announce(leader.manifest(1, steps=leader.step(1), base_version=0))
    assert only(actions, CancelTraining).reason == "round 1 is closed"
    assert kinds(leader.train()) == ["Say"]
    assert leader.snapshot.pending is None
    assert leader.session.training_failed("stopped") == []


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_the_end_of_the_run_stops_the_training(state):
    leader = Leader()
    leader.lead()
    assert kinds(leader.announce(leader.manifest(0, state))) == ["CancelTraining", "Say"]


def test_a_failed_attempt_does_not_stop_the_training():
    leader = Leader()
    leader.lead()
    assert leader.announce(leader.manifest(0, "waiting", attempt=2)) == []
    assert leader.announce(leader.manifest(0, "round", attempt=2)) == []
    assert kinds(leader.train()) == ["offer"]


# -- the update's fate, and the residual ------------------------------------------------------------------


def residual_after_training(leader):
    """Train by an amount that 8 bits cannot carry; return the offer and the residual to come."""
    weights = leader.snapshot.weights + np.linspace(0, 0.37, 16, dtype=np.float32)
    offer = said(leader.train(weights=np.where(leader.snapshot.live, weights, np.float32(0))), Offer)
    residual = leader.snapshot.pending.residual
    assert residual.any()
    return offer, residual


@pytest.mark.parametrize("status", ["accepted", "duplicate"])
def test_the_residual_is_replaced_when_the_update_is_taken(status):
    leader = Leader()
    leader.lead()
    offer, residual = residual_after_training(leader)
    assert not leader.snapshot.residual.any()
    leader.ack(offer, status)
    assert leader.snapshot.residual.tobytes() == residual.tobytes()


@pytest.mark.parametrize("status", ["late", "refused"])
def test_the_residual_stays_when_the_update_is_not_used(status):
    leader = Leader()
    leader.lead()
    offer, _ = residual_after_training(leader)
    assert "is not used" in only(leader.ack(offer, status), Say).text
    assert leader.snapshot.pending is None
    assert not leader.snapshot.residual.any()


def test_the_residual_goes_into_the_next_update_and_dies_with_the_mask():
    leader = Leader()
    leader.lead()
    offer, residual = residual_after_training(leader)
    leader.ack(offer)
    manifest = leader.manifest(1, mask=THIN, steps=leader.step(1, THIN), base_version=0)
    leader.lead(manifest)
    assert leader.snapshot.residual.tobytes() == np.where(THIN.live, residual, np.float32(0)).tobytes()
    leader.train(0.0)
    frame = leader.snapshot.pending.frame
    sent = decode_frame(frame, kind=FrameKind.UPDATE, mask=THIN, base=manifest.model).values()
    assert sent == pytest.approx(THIN.gather(residual), abs=float(np.abs(residual).max()) / 100)


def test_what_a_trainer_does_to_dead_weights_is_no_debt():
    leader = Leader()
    leader.lead(leader.manifest(1, mask=THIN))
    leader.train(weights=np.full(16, 7.3, np.float32))
    assert leader.snapshot.pending.residual[~THIN.live].tolist() == [0.0] * 6


def test_a_refused_update_is_made_anew_in_the_next_attempt_and_not_before():
    leader = Leader()
    leader.lead()
    assert kinds(leader.ack(said(leader.train(), Offer), "refused")) == ["Say"]
    assert leader.announce(leader.manifest(0, cohort=encode_cohort(["pi"]))) == []
    assert kinds(leader.announce(leader.manifest(0, attempt=2))) == ["StartTraining"]


@pytest.mark.parametrize(("status", "used"), [("duplicate", True), ("late", False), ("refused", False)])
def test_the_fate_of_an_update_is_learnt_before_the_next_training(status, used):
    leader = Leader()
    leader.lead()
    offer, residual = residual_after_training(leader)
    # The round closes, and no word about the update has come.
    manifest = leader.manifest(1, mask=THIN, steps=leader.step(1, THIN), base_version=0)
    again = said(leader.lead(manifest, now=5.0), Offer)
    assert (again.round, again.update) == (1, offer.update)
    actions = leader.ack(again, status)
    assert kinds(actions) == ["Say", "StartTraining"]
    expected = np.where(THIN.live & used, residual, np.float32(0))
    assert leader.snapshot.residual.tobytes() == expected.tobytes()
    assert leader.snapshot.pending is None


def test_a_client_that_is_not_invited_learns_the_fate_of_its_update_as_well():
    leader = Leader()
    leader.lead()
    _, residual = residual_after_training(leader)
    manifest = leader.manifest(1, steps=leader.step(1), base_version=0, cohort=encode_cohort(["other"]))
    again = said(leader.lead(manifest), Offer)
    assert kinds(leader.ack(again, "duplicate")) == ["Say"]
    assert leader.snapshot.residual.tobytes() == residual.tobytes()


def test_a_new_attempt_or_a_new_coordinator_gets_the_offer_at_once():
    leader = Leader()
    leader.lead()
    offer = said(leader.train(now=0.0), Offer)
    leader.session.tick(2.0)
    leader.session.tick(6.0)
    assert leader.session.tick(7.0) == []
    assert said(leader.announce(leader.manifest(0, attempt=2), now=7.0), Offer) == offer
    assert leader.hear(TOPICS.coordinator, CoordinatorState(run="r", session=2, online=True)) == []
    assert said(leader.session.tick(7.1), Offer) == offer
    leader.session.connected(7.2)
    assert said(leader.session.tick(7.2), Offer) == offer


def test_acks_of_another_update_or_run_are_not_ours():
    leader = Leader()
    leader.lead()
    offer = said(leader.train(), Offer)
    assert leader.down(Ack(run="other", round=1, digest=offer.update.digest, status="accepted")) == []
    assert leader.down(Ack(run="r", round=1, digest=bytes(16), status="accepted")) == []
    assert (
        leader.hear(TOPICS.down("other"), Ack(run="r", round=1, digest=offer.update.digest, status="late"))
        == []
    )
    assert leader.snapshot.pending is not None


def test_received_bytes_are_reported_once():
    leader = Leader()
    leader.lead()
    leader.received = 500
    leader.ack(said(leader.train(), Offer))
    leader.received = 800
    leader.lead(leader.manifest(1, steps=leader.step(1), base_version=0))
    assert said(leader.train(), Offer).received_bytes == 300
    farewell = decode_message(leader.session.farewell().payload, Presence)
    assert (farewell.online, farewell.profile) == (False, {"received_bytes": 300})


# -- EF21, and no feedback at all -------------------------------------------------------------------------

EF21 = {"feedback": "ef21"}
ZERO = Ef21Feedback.zero(LAYOUT).digest


def sent_by(leader, manifest, mask=DENSE):
    """Return what the update on the disk says, flat."""
    frame = leader.snapshot.pending.frame
    return mask.scatter(decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=manifest.model).values())


def ramp(leader, high=0.37):
    """Train by an amount that 8 bits cannot carry; return the offer and the change."""
    live, change = leader.snapshot.live, np.linspace(0, high, 16, dtype=np.float32)
    weights = np.where(live, leader.snapshot.weights + change, np.float32(0))
    return said(leader.train(weights=weights), Offer), weights - leader.snapshot.weights


def test_ef21_sends_differences_from_the_estimate_that_it_names():
    leader = Leader(plan=EF21)
    first = leader.manifest()
    leader.lead(first)
    offer, change = ramp(leader)
    assert offer.estimate == ZERO
    sent = sent_by(leader, first)
    assert sent == pytest.approx(change, abs=0.002)
    leader.ack(offer)
    assert leader.snapshot.feedback == "ef21"
    assert leader.snapshot.residual.tobytes() == sent.tobytes()
    second = leader.manifest(1, steps=leader.step(1), base_version=0)
    leader.lead(second)
    offer, change = ramp(leader, 0.41)
    assert offer.estimate == Ef21Feedback(estimate=sent).digest != ZERO
    assert sent_by(leader, second) == pytest.approx(change - sent, abs=0.001)
    expected = sent + sent_by(leader, second)
    # A restart between offer and answer changes nothing.
    restarted = Leader(memory=leader.memory, plan=EF21)
    restarted.blobs = leader.blobs
    again = said(restarted.lead(second), Offer)
    assert (again.update, again.estimate) == (offer.update, offer.estimate)
    restarted.ack(again, "duplicate")
    assert restarted.snapshot.residual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("status", ["late", "refused"])
def test_the_estimate_stays_when_the_update_is_not_used(status):
    leader = Leader(plan=EF21)
    leader.lead()
    offer, _ = ramp(leader)
    leader.ack(offer, status)
    assert leader.snapshot.pending is None
    assert not leader.snapshot.residual.any()


def test_a_coordinator_with_another_estimate_gets_an_update_from_zero():
    leader = Leader(plan=EF21)
    leader.lead()
    leader.ack(ramp(leader)[0])
    manifest = leader.manifest(1, steps=leader.step(1), base_version=0)
    leader.lead(manifest)
    actions = leader.ack(ramp(leader)[0], "anew")
    assert kinds(actions) == ["Say", "StartTraining"]
    assert "'anew': why" in only(actions, Say).text
    assert not leader.snapshot.residual.any()
    offer, change = ramp(leader)
    assert (offer.round, offer.estimate) == (2, ZERO)
    assert sent_by(leader, manifest) == pytest.approx(change, abs=0.002)
    # Whoever says so of zero, too, is not asked a third time before the next attempt.
    assert kinds(leader.ack(offer, "anew")) == ["Say"]
    assert kinds(leader.announce(replace(manifest, attempt=2))) == ["StartTraining"]


def test_the_estimate_is_masked_when_it_is_used_and_not_before():
    leader = Leader(plan=EF21)
    leader.lead()
    offer, _ = ramp(leader)
    leader.ack(offer)
    estimate = leader.snapshot.residual
    manifest = leader.manifest(1, mask=THIN, steps=leader.step(1, THIN), base_version=0)
    leader.lead(manifest)
    assert leader.snapshot.residual.tobytes() == estimate.tobytes()
    offer, change = ramp(leader, 0.5)
    assert offer.estimate == Ef21Feedback(estimate=estimate).digest
    masked = np.where(THIN.live, estimate, np.float32(0))
    assert sent_by(leader, manifest, THIN) == pytest.approx(change - masked, abs=0.002)
    expected = masked + sent_by(leader, manifest, THIN)
    leader.ack(offer)
    assert leader.snapshot.residual.tobytes() == expected.tobytes()


def test_what_another_kind_of_feedback_has_left_is_not_used():
    leader = Leader()
    leader.lead()
    leader.ack(residual_after_training(leader)[0])
    leader.lead(leader.manifest(1, steps=leader.step(1), base_version=0))
    leader.train()
    assert leader.snapshot.residual.any()
    assert leader.snapshot.pending is not None
    changed = Leader(memory=leader.memory, plan=EF21)
    actions = changed.lead(changed.manifest(1, steps=changed.step(1), base_version=0))
    assert kinds(actions) == ["StartTraining"]
    assert ramp(changed)[0].estimate == ZERO


def test_another_run_begins_with_an_estimate_of_zero():
    leader = Leader(plan=EF21)
    leader.lead()
    leader.ack(ramp(leader)[0])
    leader.lead(leader.manifest(run="r2"))
    assert ramp(leader)[0].estimate == ZERO


def test_an_answer_for_ef21_does_not_touch_a_residual():
    leader = Leader()
    leader.lead()
    leader.ack(residual_after_training(leader)[0])
    residual = leader.snapshot.residual
    leader.lead(leader.manifest(1, steps=leader.step(1), base_version=0))
    offer = said(leader.train(), Offer)
    assert offer.estimate == b""
    assert kinds(leader.ack(offer, "anew")) == ["Say"]
    assert leader.snapshot.residual.tobytes() == residual.tobytes()


def test_without_feedback_nothing_is_owed():
    leader = Leader(plan={"feedback": "none"})
    leader.lead()
    offer, _ = ramp(leader)
    assert offer.estimate == b""
    leader.ack(offer)
    manifest = leader.manifest(1, steps=leader.step(1), base_version=0)
    leader.lead(manifest)
    assert (leader.snapshot.feedback, leader.snapshot.residual.any()) == ("none", False)
    leader.train(0.0)
    assert not sent_by(leader, manifest).any()


def test_a_feedback_that_is_not_known_here_is_declined():
    leader = Leader(plan={"feedback": "ef99"})
    assert said(leader.lead(), Decline).reason == (
        "the run's plan cannot be carried out: "
        "error feedback 'ef99' is not known here; update Hedgerow on this device"
    )
    assert kinds(leader.announce(leader.manifest(attempt=2))) == ["Say", "decline"]


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
