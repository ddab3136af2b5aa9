"""Whole runs over the in-memory link: what they come to, undisturbed and disturbed."""

import random
from dataclasses import replace

import numpy as np
import pytest

from hedgerow_coordinator.attendance import PATIENCE_S
from hedgerow_coordinator.server_optimizer import AggregationSettings
from hedgerow_transport import (
    Ack,
    Manifest,
    MemoryHub,
    blob_digest,
    decode_down,
    decode_message,
    parse_topic,
)


def kind(topic):
    parsed = parse_topic(topic)
    return parsed.kind if parsed else "other"


def test_a_plain_run_ends_with_the_weighted_mean(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1))
    rig.fake.num_samples = {"a": 10, "b": 20, "c": 50}
    rig.run()
    deltas = {name: result.weights - request.weights for name, request, result in rig.fake.done}
    total = sum(rig.fake.num_samples[name] * delta.astype(np.float64) for name, delta in deltas.items())
    expected = (rig.first_weights + total / 80).astype(np.float32)
    assert rig.coordinator.state.weights.tobytes() == expected.tobytes()
    assert not np.array_equal(expected, rig.first_weights)
    assert rig.coordinator.failure is None


@pytest.mark.parametrize("init", ["template", "seeded"])
def test_every_round_runs_under_the_density_of_the_plan(make_plan, make_rig, init):
    plan = make_plan(rounds=5, density=0.5, end_round=4, init=init)
    rig = make_rig(plan)
    rig.run()
    rounds = [record for record in rig.store.rounds() if record.round > 0]
    assert [record.round for record in rounds] == [1, 2, 3, 4, 5]
    assert all(record.status == "committed" and record.updates == 3 for record in rounds)
    num_parameters = rig.layout.num_parameters
    for record in rounds:
        assert abs(record.density - plan.pruning.density_at(record.round)) <= 1 / num_parameters
    assert rounds[-1].density == 36 / 72
    assert rig.fake.rounds_of("b") == [1, 2, 3, 4, 5]


def test_all_clients_end_with_the_published_model_to_the_bit(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=4, density=0.5, codec="deadzone"))
    rig.run()
    rig.to_end()
    assert {rig.model_of(name) for name in "abc"} == {rig.published}


def test_the_journal_counts_the_bytes_that_are_on_the_wire(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=3, density=0.5))
    rig.run()
    sent, received = rig.bytes_sent_by("coordinator"), sum(map(rig.bytes_sent_by, "abc"))
    assert rig.coordinator_bytes() == {"sent": sent, "received": received}
    journal = rig.store.traffic()
    assert sum(num for (way, _), num in journal.items() if way == "sent") == sent
    # A client's blobs asked for by Need and its presence are received as well as offers and chunks.
    assert sum(num for (way, _), num in journal.items() if way == "received") == received


def test_the_journal_counts_what_the_devices_received(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=3))
    rig.run()
    told = sum(record.delivered_bytes for record in rig.store.rounds())
    told += rig.store.traffic()["delivered", "farewell"]
    assert told == sum(rig.received_bytes().values())


@pytest.mark.parametrize("codec", ["uniform", "deadzone"])
def test_the_same_seed_gives_the_same_weights_whatever_the_order_of_messages(make_plan, make_rig, codec):
    plan = make_plan(rounds=3, density=0.5, codec=codec)
    first, again, backwards = make_rig(plan), make_rig(plan), make_rig(plan, backwards=True)
    other = make_rig(make_plan(rounds=3, density=0.5, codec=codec, seed=8))
    for rig in (first, again, backwards, other):
        rig.run()
    offers = [sender for sender, p in backwards.sent if kind(p.topic) == "offer"]
    assert offers[:3] == ["c", "b", "a"]
    assert first.outcome == again.outcome == backwards.outcome
    assert first.outcome != other.outcome


def test_the_cohort_is_drawn_anew_each_round_and_others_keep_up(make_plan, make_rig):
    plan = make_plan(rounds=6, clients_per_round=2, min_clients=5)
    rig, again = make_rig(plan, "abcde"), make_rig(plan, "abcde")
    rig.run()
    rig.to_end()
    again.run()
    cohorts = [sorted(name for name, r, _ in rig.fake.done if r.round == number) for number in range(1, 7)]
    assert all(len(set(cohort)) == 2 for cohort in cohorts)
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    assert sorted(rig.counted()) == sorted((n, name) for n, c in enumerate(cohorts, 1) for name in c)
    assert [name for name, *_ in again.fake.done] == [name for name, *_ in rig.fake.done]
    assert {rig.model_of(name) for name in "abcde"} == {rig.published}


def test_a_manifest_of_a_real_run_stays_below_a_kilobyte(make_plan, make_rig):
    names = [f"device-{number:025d}" for number in range(130)]
    plan = make_plan(rounds=1, clients_per_round=120, min_clients=130)
    rig = make_rig(plan, names)
    rig.silent = set(names)
    rig.start()
    rig.until(lambda: rig.coordinator.phase == "collect")
    payload = rig.hub.retained(rig.topics.manifest)
    manifest = decode_message(payload, Manifest)
    assert len(manifest.cohort) == 4 * 120
    full = replace(manifest, steps=manifest.steps[:1] * 8, reason="x" * 80, deadline_s=1e8)
    assert len(full.encode()) < 1000


class Faults:
    """Lose or repeat deliveries of some kinds, by chance."""

    def __init__(self, kinds, *, share, seed):
        self._kinds, self._share, self._random, self.count = kinds, share, random.Random(seed), 0

    def __call__(self, topic, payload, receiver):
        hit = kind(topic) in self._kinds and self._random.random() < self._share
        self.count += hit
        return hit


@pytest.fixture
def undisturbed(make_plan, make_rig, long_tensors):
    rig = make_rig(make_plan(rounds=3, density=0.5, end_round=2), tensors=long_tensors)
    rig.run()
    return rig.outcome


@pytest.mark.parametrize(
    ("way", "kinds", "share"),
    [
        ("drop", ("blob",), 0.3),
        ("drop", ("chunk",), 0.3),
        ("drop", ("offer", "down", "need", "sync"), 0.3),
        ("drop", ("blob", "chunk", "offer", "down", "need", "sync"), 0.3),
        ("duplicate", ("blob", "chunk", "offer", "down", "need", "sync", "manifest", "presence"), 0.5),
    ],
    ids=["chunks down", "chunks up", "words", "everything", "twice"],
)
def test_losses_and_repetitions_change_nothing(
    make_plan, make_rig, long_tensors, undisturbed, way, kinds, share
):
    faults = Faults(kinds, share=share, seed=1)
    # The grace is as long as the round: nobody may be left out, or the mean would differ.
    plan = make_plan(rounds=3, density=0.5, end_round=2, deadline_s=3600.0, grace_s=3600.0)
    rig = make_rig(plan, tensors=long_tensors, hub=MemoryHub(**{way: faults}))
    rig.run()
    assert faults.count > 15
    assert rig.outcome == undisturbed
    assert len(rig.counted()) == len(set(rig.counted())) == 9


def test_accepts_that_come_twice_do_not_send_the_update_twice(make_plan, make_rig, long_tensors):
    plan = make_plan(rounds=2)
    plain = make_rig(plan, tensors=long_tensors)
    twice = make_rig(
        plan, tensors=long_tensors, hub=MemoryHub(duplicate=Faults(("down",), share=1.0, seed=0))
    )
    plain.run()
    twice.run()
    assert twice.bytes_sent_by("a") == plain.bytes_sent_by("a")


# -- quorum, deadline, attempts ---------------------------------------------------------------------------


def test_a_round_closes_after_the_grace_time_when_one_of_five_never_answers(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, min_clients=5, grace_s=30.0, deadline_s=600.0), "abcde")
    rig.silent = {"e"}
    rig.run()
    first, second = rig.store.rounds()[1:]
    assert (first.updates, first.cohort, first.seconds) == (4, 5, 30.0)
    assert (second.updates, second.cohort, second.seconds) == (4, 5, 30.0)


def test_the_grace_time_does_not_outlast_the_deadline(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=5, grace_s=500.0, deadline_s=40.0), "abcde")
    rig.silent = {"e"}
    rig.run()
    assert rig.store.rounds()[1].seconds == 40.0


def test_without_a_quorum_attempts_fail_and_then_the_run_with_its_reason(make_plan, make_rig):
    plan = make_plan(rounds=2, min_clients=5, deadline_s=100.0, max_failed_attempts=2)
    rig = make_rig(plan, "abcde")
    rig.silent = {"c", "d", "e"}
    rig.run()
    rig.to_end()
    failed = rig.store.rounds()[1:]
    assert [(r.status, r.attempt, r.updates, r.seconds) for r in failed] == [
        ("failed", 1, 2, 100.0),
        ("failed", 2, 2, 100.0),
    ]
    assert rig.coordinator.failure == (
        "round 1 failed in 2 attempts: 2 of 5 clients answered, the quorum is 3"
    )
    left = [notice for notice in rig.notices if "left" in notice]
    assert len(left) == 5
    assert all("run 'trial' failed: round 1 failed in 2 attempts" in notice for notice in left)


def test_updates_of_a_failed_attempt_serve_the_next_one(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=5, deadline_s=100.0), "abcde")
    calm = make_rig(make_plan(rounds=1, min_clients=5, deadline_s=100.0), "abcde")
    rig.silent = {"c", "d", "e"}
    rig.start()
    rig.until(lambda: len(rig.store.rounds()) == 2)
    rig.silent = set()
    rig.to_end()
    calm.run()
    assert [(r.status, r.updates) for r in rig.store.rounds()[1:]] == [("failed", 2), ("committed", 5)]
    assert [rig.fake.rounds_of(name) for name in "abcde"] == [[1]] * 5
    assert rig.outcome == calm.outcome


def test_a_client_whose_will_has_come_is_waited_for_with_patience_and_no_longer(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=3, grace_s=600.0), "abc")
    rig.silent = {"c"}
    rig.start()
    rig.until(lambda: len(rig.counted()) == 2)
    rig.drop("c")
    rig.to_end()
    assert rig.store.rounds()[1].seconds == PATIENCE_S


def test_a_client_that_is_back_in_time_is_waited_for(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=3, grace_s=600.0), "abc")
    rig.silent = {"c"}
    rig.start()
    rig.until(lambda: len(rig.counted()) == 2)
    rig.drop("c")
    rig.reconnect("c")
    rig._deliver()
    rig._deliver()
    rig.now = PATIENCE_S + 1
    rig.coordinator.tick(rig.now)
    assert rig.coordinator.phase == "collect"
    rig.silent = set()
    rig.to_end()
    assert rig.store.rounds()[1].updates == 3


def test_time_goes_on_when_clients_are_gone_before_the_quorum(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=3, quorum=1.0, deadline_s=60.0, max_failed_attempts=1))
    rig.silent = {"c"}
    rig.start()
    rig.until(lambda: len(rig.counted()) == 2)
    rig.drop("c")
    rig.to_end()
    assert rig.coordinator.failure == "round 1 failed in 1 attempt: 2 of 3 clients answered, the quorum is 3"
    assert rig.store.rounds()[1].seconds == 60.0


def test_all_decline_and_the_run_fails_at_once_with_their_reason(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, max_failed_attempts=2))
    for name in "abc":
        rig.fake.outcomes[name, 1] = "the loss is nan in step 3"
    rig.run()
    assert rig.coordinator.failure == (
        "round 1 failed in 2 attempts: 0 of 3 clients answered, the quorum is 2; "
        "a says: the loss is nan in step 3"
    )
    assert [record.seconds for record in rig.store.rounds()[1:]] == [0.0, 0.0]
    assert rig.fake.rounds_of("a") == [1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["loss", "weights"])
def test_a_result_that_is_not_finite_is_declined(make_plan, make_rig, value, where):
    def spoil(result):
        if where == "loss":
            return replace(result, loss=float(value))
        weights = result.weights.copy()
        weights[0] = value
        return replace(result, weights=weights)

    rig = make_rig(make_plan(rounds=2))
    rig.fake.outcomes["b", 1] = spoil
    rig.run()
    assert rig.coordinator.failure is None
    assert rig.counted() == [(1, "a"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]
    assert any(
        notice.startswith("b has no update for round 1: training has made no update")
        for notice in rig.notices
    )
    assert rig.store.rounds()[1].seconds == 0.0


def test_an_update_beyond_all_measure_is_refused_and_does_not_hold_up_the_round(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2))
    rig.fake.outcomes["b", 1] = lambda result: replace(result, weights=result.weights + np.float32(1e30))
    rig.run()
    assert rig.coordinator.failure is None
    assert rig.counted() == [(1, "a"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]
    assert any("moves a weight by 1e+30" in notice for notice in rig.notices)
    assert rig.store.rounds()[1].seconds == 0.0
    assert np.abs(rig.coordinator.state.weights).max() < 1


def test_a_mean_that_leaves_the_numbers_ends_the_run_with_a_reason(make_plan, make_rig):
    plan = replace(make_plan(rounds=2), aggregation=AggregationSettings(server_learning_rate=1e300))
    rig = make_rig(plan)
    rig.run()
    assert rig.coordinator.failure == "round 1 would make weights infinite or NaN"
    assert rig.coordinator.state.version == 0
    assert np.array_equal(rig.coordinator.state.weights, rig.first_weights)


# -- who comes and goes -----------------------------------------------------------------------------------


def test_a_late_joiner_takes_part_from_then_on(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=5, density=0.5))
    rig.start()
    rig.until_round(3)
    rig.join("d")
    rig.to_end()
    assert rig.fake.rounds_of("d") in ([3, 4, 5], [4, 5])
    assert rig.model_of("d") == rig.published
    assert (5, "d") in rig.counted()


def test_joiners_at_the_same_time_are_served_by_one_stream(make_plan, make_rig, long_tensors):
    rig = make_rig(make_plan(rounds=3), tensors=long_tensors)
    rig.start()
    rig.until_round(2)
    rig.silent = {"a"}
    rig.until(lambda: len(rig.counted()) == 5)
    before = len(rig.sent)
    for name in "defgh":
        rig.silent.add(name)
        rig.join(name)
    rig.until(lambda: all(rig.fake and rig._clients[name].wanted for name in "defgh"))
    chunks = [p for sender, p in rig.sent[before:] if kind(p.topic) == "blob"]
    # A keyframe of 12 kB, a mask and the plan: one stream, not five.
    assert len(chunks) <= 16


def test_a_client_that_missed_a_round_catches_up_by_steps(make_plan, make_rig, long_tensors):
    rig = make_rig(make_plan(rounds=4, downlink="topk"), tensors=long_tensors)
    rig.start()
    rig.until_round(2)
    rig.drop("c")
    rig.until_round(4)
    rig.silent = {"a", "b"}
    before = len(rig.sent)
    rig.reconnect("c")
    rig.until(lambda: (4, "c") in rig.counted())
    rig.silent = set()
    rig.to_end()
    fetched = sum(len(p.payload) for sender, p in rig.sent[before:] if kind(p.topic) == "blob")
    # Two steps of one weight in a hundred; a keyframe has 12 kB.
    assert fetched < 2_000
    assert (3, "c") not in rig.counted()
    assert rig.model_of("c") == rig.published


def test_a_client_that_missed_much_catches_up_by_a_keyframe(make_plan, make_rig, long_tensors):
    rig = make_rig(make_plan(rounds=6, downlink="fp16"), tensors=long_tensors)
    rig.start()
    rig.until_round(2)
    rig.drop("c")
    rig.until_round(6)
    rig.silent = {"a", "b"}
    before = len(rig.sent)
    rig.reconnect("c")
    rig.until(lambda: (6, "c") in rig.counted())
    fetched = sum(len(p.payload) for sender, p in rig.sent[before:] if kind(p.topic) == "blob")
    assert 12_000 < fetched < 14_500
    assert rig.model_of("c") == rig.published


def test_a_restarted_client_offers_the_same_bytes_again_and_counts_once(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, grace_s=600.0))
    calm = make_rig(make_plan(rounds=2, grace_s=600.0))
    calm.run()
    rig.start()
    # The update is made and saved, then the power goes before a word of it is out.
    rig.until(lambda: rig._clients["c"].wanted is not None)
    publish, rig._publish = rig._publish, lambda link, p: None
    rig._train()
    del rig._publish
    assert publish == rig._publish
    memory = rig.kill("c")
    pending = memory.load().pending
    assert pending is not None
    rig.join("c", memory=memory)
    # What was lost of the others comes with their next offers.
    rig.to_end()
    assert rig.fake.rounds_of("c") == [1, 2]
    digests = {r.client: r.digest for r in rig.store.update_records(1)}
    assert digests["c"] == blob_digest(pending.frame)
    assert rig.outcome == calm.outcome


def test_a_client_restarted_after_its_acknowledgement_does_not_train_again(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, grace_s=600.0))
    rig.silent = {"a"}
    rig.start()
    rig.until(lambda: (1, "c") in rig.counted())
    rig._deliver()
    memory = rig.kill("c")
    assert memory.load().pending is None
    rig.join("c", memory=memory)
    rig._deliver()
    rig.silent = set()
    rig.to_end()
    assert rig.fake.rounds_of("c") == [1, 2]
    assert len(rig.counted()) == 6


def test_a_client_that_has_lost_its_state_begins_anew(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=4, density=0.5))
    rig.start()
    rig.until_round(3)
    rig._clients["c"].memory.next_session()
    rig.kill("c")
    # Its session counter begins at 1 again.
    rig.join("c")
    rig.to_end()
    assert (4, "c") in rig.counted()
    assert rig.model_of("c") == rig.published


def test_a_client_with_a_damaged_model_asks_for_a_whole_one(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=4))
    rig.start()
    rig.until_round(3)
    memory = rig.kill("c")
    snapshot = memory.load()
    weights = snapshot.weights.copy()
    weights[5] += 1
    memory.save(replace(snapshot, weights=weights, pending=None))
    rig.join("c", memory=memory)
    rig.to_end()
    assert (4, "c") in rig.counted()
    assert rig.model_of("c") == rig.published


# -- error feedback ---------------------------------------------------------------------------------------


def test_the_residual_is_that_of_the_last_update_that_was_taken(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, codec="uniform"))
    rig.start()
    rig.until_round(2)
    rig.silent = {"c"}
    rig.until(lambda: (2, "a") in rig.counted())
    after_one = rig.residual_of("c").copy()
    assert after_one.any()
    # The round closes without c; its work comes too late and changes nothing.
    rig.to_end()
    assert np.array_equal(rig.residual_of("c"), after_one)
    assert not np.array_equal(rig.residual_of("a"), np.zeros_like(after_one))


def test_the_residual_is_zero_where_the_mask_has_died(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=3, codec="uniform", density=0.5))
    rig.run()
    rig.to_end()
    live = rig.coordinator.state.mask.live
    for name in "abc":
        residual = rig.residual_of(name)
        assert residual[live].any()
        assert not residual[~live].any()


def test_a_client_that_misses_its_acknowledgement_learns_it_in_the_next_round(make_plan, make_rig):
    plan = make_plan(rounds=3, codec="uniform", density=0.5)
    deaf = {"c"}

    def lost(topic, payload, receiver):
        return receiver in deaf and kind(topic) == "down" and isinstance(decode_down(payload), Ack)

    rig, calm = make_rig(plan, hub=MemoryHub(drop=lost)), make_rig(plan)
    calm.run()
    rig.start()
    rig.until_round(2)
    rig._deliver()
    # Stored and in the mean, but c cannot know; it does not train before it does.
    assert rig.pending_of("c").round == 1
    rig.until(lambda: (2, "a") in rig.counted())
    assert rig.fake.rounds_of("c") == [1]
    deaf.clear()
    rig.to_end()
    assert len(rig.counted()) == 9
    assert rig.outcome == calm.outcome
    assert np.array_equal(rig.residual_of("c"), calm.residual_of("c"))
