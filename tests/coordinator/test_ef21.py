"""EF21 from end to end: the mean by its formula, and two ends that agree whatever befalls them."""

import random
from dataclasses import replace

import numpy as np
import pytest

from hedgerow_codecs import Ef21Feedback, Mask, codec_from_config
from hedgerow_coordinator.server_optimizer import AggregationSettings
from hedgerow_transport import (
    Ack,
    BlobRef,
    MemoryHub,
    Offer,
    blob_digest,
    decode_down,
    decode_message,
    encode_chunk,
    indices,
    parse_topic,
)

KINDS = ("blob", "chunk", "offer", "down", "need", "sync")


@pytest.fixture
def ef21_plan(make_plan):
    """Return what makes a plan with EF21, a lossy way up and an exact way down."""

    def make(*, codec="topk", feedback="ef21", **options):
        plan = make_plan(codec="float32", **options)
        fraction = {"fraction": 0.2, "bits": 4} if codec == "topk" else {}
        uplink = {"codec_id": codec, **fraction}
        return replace(plan, codec=replace(plan.codec, uplink=uplink, feedback=feedback))

    return make


class Reference:
    """EF21 written out: replays a rig's training results."""

    def __init__(self, rig):
        self.rig = rig
        self.codec = codec_from_config(rig.plan.uplink_at(1))
        self.estimates = {}
        self.weights = rig.first_weights.copy()

    def round(self, number):
        done = {name: (r, res) for name, r, res in self.rig.fake.done if r.round == number}
        total, samples = np.zeros(len(self.weights)), 0
        for name, (request, result) in done.items():
            mask = Mask(layout=self.rig.layout, live=request.live)
            known = np.where(mask.live, self.estimates.get(name, np.float32(0)), np.float32(0))
            wanted = (result.weights - request.weights) - known
            sent = self.codec.decode(self.codec.encode(mask.gather(wanted), mask=mask), mask=mask)
            self.estimates[name] = known + mask.scatter(sent.values())
            total += result.num_samples * self.estimates[name].astype(np.float64)
            samples += result.num_samples
        live = next(iter(done.values()))[0].live
        self.weights = np.where(live, self.weights + total / samples, 0).astype(np.float32)
        return self.weights


def estimate_of(rig, name):
    """Return the estimate on a client's disk."""
    snapshot = rig._clients[name].memory.load()
    assert snapshot.feedback == "ef21"
    return Ef21Feedback(estimate=snapshot.residual)


def files(rig):
    directory = rig.directory / "estimates"
    return {path.name: path for path in directory.iterdir()} if directory.exists() else {}


def assert_agreed(rig, names):
    """Check that both ends hold the same estimates, bit for bit."""
    for name in names:
        data = rig.store.estimates.load(name, before=rig.coordinator.state.version + 1)
        kept = Ef21Feedback.from_bytes(data, layout=rig.layout)
        assert np.array_equal(kept.estimate, estimate_of(rig, name).estimate), name
        assert kept.estimate.any()


def events(rig):
    return [(event.kind, event.detail) for event in rig.store.events()]


# -- the formula ------------------------------------------------------------------------------------------


def test_two_rounds_by_hand(ef21_plan, make_rig):
    plan = ef21_plan(rounds=3, min_clients=2)
    one_entry = {"codec_id": "topk", "fraction": 1 / 72, "bits": 1}
    rig = make_rig(replace(plan, codec=replace(plan.codec, uplink=one_entry)), "ab")
    rig.fake.num_samples = {"a": 10, "b": 30}
    for name, change in (("a", [1.0, 0.5]), ("b", [1.0, 2.0])):
        flat = np.zeros(72, np.float32)
        flat[:2] = change
        for number in (1, 2):
            rig.fake.outcomes[name, number] = lambda result, flat=flat: replace(
                result, weights=rig.coordinator.state.published + flat
            )
    rig.start()
    rig.until_round(2)
    moved = rig.coordinator.state.weights - rig.first_weights
    # a has sent its first entry, b its second: 10 * 1 / 40 and 30 * 2 / 40.
    assert moved[:2].tolist() == [0.25, 1.5]
    rig.until_round(3)
    # Now each sends the other one, and what is known of it stays:
    # (10 * 1 + 30 * 1) / 40 and (10 * 0.5 + 30 * 2) / 40.
    assert (rig.coordinator.state.weights - rig.first_weights - moved)[:2].tolist() == [1.0, 1.625]
    assert not (rig.coordinator.state.weights - rig.first_weights)[2:].any()


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_a_round_applies_the_mean_of_its_participants_estimates(ef21_plan, make_rig, density):
    rig = make_rig(ef21_plan(rounds=5, density=density))
    rig.fake.num_samples = {"a": 10, "b": 20, "c": 50}
    reference = Reference(rig)
    rig.start()
    for number in (1, 2, 3, 4):
        rig.until_round(number + 1)
        expected = np.where(rig.coordinator.state.mask.live, reference.round(number), np.float32(0))
        assert rig.coordinator.state.weights.tobytes() == expected.tobytes()
        reference.weights = expected
    assert (rig.coordinator.state.mask.density < 0.6) == (density < 1)
    rig.silent = set("abc")
    rig.until(lambda: rig.pending_of("a") is None)
    assert_agreed(rig, "abc")
    for name in "abc":
        assert np.array_equal(estimate_of(rig, name).estimate, reference.estimates[name])
    # What is sent without EF21 is another thing.
    plain = make_rig(ef21_plan(rounds=5, density=density, feedback="none"))
    plain.fake.num_samples = rig.fake.num_samples
    plain.start()
    plain.until_round(5)
    assert not np.array_equal(plain.coordinator.state.weights, rig.coordinator.state.weights)


def test_who_is_not_in_the_round_has_no_part_in_its_mean_and_keeps_its_estimate(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=7, clients_per_round=2, min_clients=5), "abcde")
    reference = Reference(rig)
    rig.start()
    for number in range(1, 7):
        rig.until_round(number + 1)
        assert rig.coordinator.state.weights.tobytes() == reference.round(number).tobytes()
    rig.silent = set("abcde")
    took_part = {name for name, request, _ in rig.fake.done if request.round < 7}
    assert len(took_part) > 2
    assert_agreed(rig, took_part)
    assert {name.partition(".")[0] for name in files(rig)} == took_part
    twice = [name for name in took_part if len(rig.fake.rounds_of(name)) > 1]
    assert any(np.diff(rig.fake.rounds_of(name)).max() > 1 for name in twice)


def test_ef21_with_a_lossless_enough_codec_is_fedavg(ef21_plan, make_rig):
    # Steps of 1/1024 fit into half precision: nothing to speak of is left out, in either way.
    ef21, plain = (
        make_rig(ef21_plan(rounds=3, codec="fp16", feedback=feedback)) for feedback in ("ef21", "none")
    )
    ef21.run()
    plain.run()
    assert np.allclose(ef21.coordinator.state.weights, plain.coordinator.state.weights, rtol=0, atol=1e-6)


# -- what is on the disk ----------------------------------------------------------------------------------


def test_the_disk_holds_one_estimate_for_each_client_and_none_after_the_run(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=4))
    rig.start()
    rig.until_round(3)
    rig.silent = {"c"}
    assert sorted(files(rig)) == ["a.00002", "b.00002", "c.00002"]
    assert max(path.stat().st_size for path in files(rig).values()) <= 4 * 72 + 9
    rig.until(lambda: (3, "b") in rig.counted())
    # While a round runs, those who have answered have two.
    assert sorted(files(rig)) == ["a.00002", "a.00003", "b.00002", "b.00003", "c.00002"]
    rig.until_round(4)
    assert sorted(files(rig)) == ["a.00003", "b.00003", "c.00002"]
    rig.to_end()
    assert not (rig.directory / "estimates").exists()
    assert rig.store.estimates.digest("a", before=99) is None


@pytest.mark.parametrize("feedback", ["residual", "none"])
def test_other_kinds_of_feedback_leave_nothing_on_the_coordinators_disk(ef21_plan, make_rig, feedback):
    rig = make_rig(ef21_plan(rounds=2, feedback=feedback))
    rig.start()
    rig.until_round(2)
    assert not (rig.directory / "estimates").exists()
    offers = [decode_message(p.payload, Offer) for _, p in rig.sent if parse_topic(p.topic).kind == "offer"]
    assert {offer.estimate for offer in offers} == {b""}


# -- losses, restarts -------------------------------------------------------------------------------------


def test_losses_change_nothing(ef21_plan, make_rig, long_tensors):
    dice = random.Random(3)

    def lost(topic, payload, receiver):
        parsed = parse_topic(topic)
        return parsed is not None and parsed.kind in KINDS and dice.random() < 0.3

    plan = ef21_plan(rounds=4, density=0.5, grace_s=600.0)
    calm, rig = (
        make_rig(plan, tensors=long_tensors),
        make_rig(plan, tensors=long_tensors, hub=MemoryHub(drop=lost)),
    )
    calm.run()
    rig.run()
    assert rig.outcome == calm.outcome
    assert len(rig.counted()) == len(set(rig.counted())) == 12


def test_an_acknowledgement_that_is_lost_is_learnt_before_the_next_update(ef21_plan, make_rig):
    deaf, plan = {"c"}, ef21_plan(rounds=3)

    def lost(topic, payload, receiver):
        parsed = parse_topic(topic)
        return (
            receiver in deaf
            and parsed is not None
            and parsed.kind == "down"
            and isinstance(decode_down(payload), Ack)
        )

    rig, calm = make_rig(plan, hub=MemoryHub(drop=lost)), make_rig(plan)
    calm.run()
    rig.start()
    rig.until_round(2)
    assert rig.pending_of("c").round == 1
    rig.until(lambda: (2, "a") in rig.counted())
    deaf.clear()
    rig.to_end()
    assert rig.outcome == calm.outcome
    assert len(rig.counted()) == 9
    assert events(rig) == events(calm)


def test_an_attempt_that_failed_has_moved_each_estimate_once(ef21_plan, make_rig):
    plan = ef21_plan(rounds=3, min_clients=5, deadline_s=100.0)
    rig, calm = make_rig(plan, "abcde"), make_rig(plan, "abcde")
    calm.run()
    rig.start()
    rig.until_round(2)
    rig.silent = {"c", "d", "e"}
    rig.until(lambda: any(record.status == "failed" for record in rig.store.rounds()))
    rig.silent = set()
    rig.to_end()
    assert rig.outcome == calm.outcome
    assert [rig.fake.rounds_of(name) for name in "abcde"] == [[1, 2, 3]] * 5


def test_a_client_restarted_with_an_update_under_way_offers_it_from_the_same_estimate(ef21_plan, make_rig):
    plan = ef21_plan(rounds=3, grace_s=600.0)
    rig, calm = make_rig(plan), make_rig(plan)
    calm.run()
    rig.start()
    rig.until_round(2)
    rig.until(lambda: rig._clients["c"].wanted is not None)
    publish, rig._publish = rig._publish, lambda link, p: None
    rig._train()
    del rig._publish
    assert publish == rig._publish
    memory = rig.kill("c")
    assert memory.load().pending.round == 2
    rig.join("c", memory=memory)
    rig.to_end()
    assert rig.fake.rounds_of("c") == [1, 2, 3]
    assert rig.outcome == calm.outcome


# -- two ends that do not agree ---------------------------------------------------------------------------


def agreed_at_last(rig, names="abc", *, round_number=4):
    """Go on to the middle of a round and check that all ends agree."""
    rig.until_round(round_number)
    rig.silent = set(names)
    rig._deliver()
    assert_agreed(rig, names)
    rig.silent = set()
    rig.to_end()
    assert rig.coordinator.failure is None


def test_a_client_that_has_lost_its_state_begins_at_zero(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=5, grace_s=600.0))
    rig.start()
    rig.until_round(3)
    rig.kill("c")
    rig.join("c")
    agreed_at_last(rig)
    assert [row for row in rig.counted() if row[1] == "c" and row[0] in (3, 4)] == [(3, "c"), (4, "c")]
    assert rig.fake.rounds_of("c").count(4) == 1
    assert ("estimate dropped", "c starts from zero in round 3") in events(rig)


def test_a_client_with_an_old_state_is_told_to_begin_at_zero(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=5, grace_s=600.0))
    rig.start()
    rig.until_round(2)
    rig._deliver()
    old = rig._clients["c"].memory.load()
    assert old.pending is None
    rig.until_round(3)
    memory = rig.kill("c")
    memory.save(old)
    rig.join("c", memory=memory)
    rig.until_round(4)
    # It trained for the round twice, and the round waited for it.
    assert rig.fake.rounds_of("c").count(3) == 2
    assert (3, "c") in rig.counted()
    assert (
        "c starts again from an estimate of zero: the estimate that is kept of c is another one"
        in rig.notices
    )
    agreed_at_last(rig)


@pytest.mark.parametrize("how", ["gone", "damaged", "all gone"])
def test_a_coordinator_that_has_lost_an_estimate_lets_its_client_begin_at_zero(ef21_plan, make_rig, how):
    rig = make_rig(ef21_plan(rounds=5, grace_s=600.0, max_failed_attempts=1))
    rig.start()
    rig.until_round(3)
    hit = "abc" if how == "all gone" else "b"
    for name in hit:
        path = files(rig)[f"{name}.00002"]
        if how == "damaged":
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        else:
            path.unlink()
    agreed_at_last(rig)
    for name in "abc":
        assert rig.fake.rounds_of(name).count(3) == (2 if name in hit else 1)
        assert (3, name) in rig.counted()
    assert sum("starts again from an estimate of zero" in notice for notice in rig.notices) == len(hit)


def test_an_update_whose_estimate_is_lost_before_the_round_ends_is_dropped(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=5))
    rig.start()
    rig.until_round(3)
    rig.silent = {"b", "c"}
    rig.until(lambda: (3, "a") in rig.counted())
    rig._deliver()
    files(rig)["a.00003"].unlink()
    rig.restart_coordinator()
    rig.silent = set()
    rig.until_round(4)
    assert [row for row in rig.counted() if row[0] == 3] == [(3, "b"), (3, "c")]
    assert any(kind == "update lost" and "a.00003 is missing" in detail for kind, detail in events(rig))
    # The client has moved its estimate, the coordinator has not: they agree again after one more answer.
    agreed_at_last(rig, round_number=5)
    assert rig.fake.rounds_of("a").count(4) == 2


def test_a_client_that_knows_nothing_of_ef21_is_refused_and_not_waited_for(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=2))
    rig.start()
    rig.until(lambda: rig._clients["c"].wanted is not None)
    real = rig._publish

    def old(link, publication):
        if link.client_id == "c" and parse_topic(publication.topic).kind == "offer":
            offer = decode_message(publication.payload, Offer)
            publication = replace(publication, payload=replace(offer, estimate=b"").encode())
        real(link, publication)

    rig._publish = old
    rig.to_end()
    assert rig.counted() == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert rig.store.rounds()[1].seconds == 0.0
    reason = "this run uses EF21 error feedback: update Hedgerow on this device"
    assert f"c has no update for round 1: {reason}" in rig.notices


def test_chunks_for_an_update_from_one_estimate_do_not_count_for_another(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=3))
    rig.start()
    rig.until_round(2)
    rig._deliver()
    frame, kept = bytes(1000), estimate_of(rig, "c").digest
    rig.silent = {"c"}

    def have(estimate):
        offer = Offer(
            run="trial",
            round=2,
            update=BlobRef(kind="update", digest=blob_digest(frame), size=1000),
            num_samples=1,
            chunk_bytes=100,
            estimate=estimate,
        )
        rig.coordinator.take_publications()
        rig.coordinator.handle(rig.topics.up("c", "offer"), offer.encode(), now=rig.now)
        (answer,) = [
            decode_down(p.payload)
            for p in rig.coordinator.take_publications()
            if p.topic == rig.topics.down("c")
        ]
        return indices(answer.have)

    assert have(kept) == []
    rig.coordinator.handle(rig.topics.up("c", "chunk"), encode_chunk(3, frame[:100]), now=rig.now)
    assert have(kept) == [3]
    assert have(Ef21Feedback.zero(rig.layout).digest) == []


def test_an_estimate_beyond_all_measure_is_refused(ef21_plan, make_rig):
    """Each update is just allowed; their sum is not."""
    plan = replace(ef21_plan(rounds=3, codec="fp16"), aggregation=AggregationSettings(outlier_ratio=0))
    rig = make_rig(plan)
    for number in (1, 2):
        rig.fake.outcomes["b", number] = lambda result, n=number: replace(
            result, weights=(result.weights + np.float32(0.9 * 2.0**40 * n)).astype(np.float32)
        )
    rig.run()
    assert (1, "b") in rig.counted()
    assert (2, "b") not in rig.counted()
    assert any(
        "b has no update for round 2: its update is refused: it moves a weight" in n for n in rig.notices
    )
    assert rig.coordinator.failure is None


# -- masks ------------------------------------------------------------------------------------------------


def test_a_client_that_missed_changes_of_the_mask_still_agrees(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=8, density=0.4, end_round=7))
    rig.start()
    rig.until_round(2)
    rig._deliver()
    rig.drop("c")
    rig.until_round(6)
    estimate = estimate_of(rig, "c").estimate
    rig.reconnect("c")
    rig.until_round(8)
    rig.silent = set("abc")
    rig._deliver()
    assert rig.fake.rounds_of("c")[0] == 1
    assert not {3, 4, 5} & set(rig.fake.rounds_of("c"))
    assert (7, "c") in rig.counted()
    assert_agreed(rig, "abc")
    assert not any(kind == "estimate dropped" for kind, _ in events(rig))
    assert not any("estimate of zero" in notice for notice in rig.notices)
    # It had an estimate where the mask has died since.
    (last,) = [request for name, request, _ in rig.fake.done if name == "c" and request.round == 7]
    assert estimate[~last.live].any()
    assert not estimate_of(rig, "c").estimate[~last.live].any()


def test_a_device_that_was_far_off_begins_anew(ef21_plan, make_rig):
    rig = make_rig(ef21_plan(rounds=4, codec="fp16"))
    rig.fake.outcomes["b", 2] = lambda result: replace(result, weights=result.weights + np.float32(1e4))
    rig.run()
    assert rig.coordinator.failure is None
    counted = [name for number, name in rig.counted() if number in (2, 4)]
    assert counted == ["a", "c", "a", "b", "c"]
    assert any("b starts again from an estimate of zero" in notice for notice in rig.notices)
    assert np.abs(rig.coordinator.state.weights).max() < 1
