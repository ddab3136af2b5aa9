"""One client's session, led by hand: how it comes to the model, trains, and what is no update."""

from dataclasses import replace

import numpy as np
import pytest
from tests.edge_client.conftest import DENSE, THIN, TOPICS, Leader, kinds, only, said

from hedgerow_codecs import (
    FrameKind,
    decode_frame,
    model_digest,
)
from hedgerow_edge_client import (
    CancelTraining,
    Leave,
    MemoryState,
    Say,
    StartTraining,
)
from hedgerow_edge_client.catching_up import MAX_WRONG_MODELS
from hedgerow_transport import (
    Accept,
    CoordinatorState,
    Decline,
    Need,
    Offer,
    Presence,
    Route,
    Sync,
    blob_digest,
    decode_chunk,
    decode_message,
    encode_cohort,
)

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


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        (["stem"], "'stem' means no tensor of the model"),
        (["*"], "there is nothing left to train"),
        ("a.weight", "names the frozen tensors in a way that makes no sense"),
        ([3], "names the frozen tensors in a way that makes no sense"),
        (["x" * 300], "a pattern has 1 to 255 bytes"),
    ],
)
def test_a_plan_that_freezes_what_cannot_be_ends_the_client(freeze, sentence):
    leader = Leader(plan={"pruning": {"freeze": freeze}})
    leave = only(leader.lead(), Leave)
    assert leave.failed
    assert leave.reason.startswith("what this run freezes is not known here: ")
    assert sentence in leave.reason


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
