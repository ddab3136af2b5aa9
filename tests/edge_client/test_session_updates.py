"""What becomes of a session's updates, and of what they owe: residuals, EF21, neither."""

from dataclasses import replace

import numpy as np
import pytest
from tests.edge_client.conftest import DENSE, LAYOUT, THIN, TOPICS, Leader, kinds, only, said

from hedgerow_codecs import (
    Ef21Feedback,
    FrameKind,
    decode_frame,
)
from hedgerow_edge_client import (
    Say,
)
from hedgerow_transport import (
    Ack,
    CoordinatorState,
    Decline,
    Offer,
    Presence,
    decode_message,
    encode_cohort,
)

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
