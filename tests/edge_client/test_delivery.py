"""Deliveries over the in-memory link: losses, duplicates, restarts, worse and broken models, power cuts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.edge_client.delivery_farm import FARM, GOOD, A, B, Farm, blob, offer, states

from hedgerow_coordinator import Deliverer
from hedgerow_edge_client import ModelShelf, StateError, TrialResult
from hedgerow_edge_client.delivery import MAX_GARBAGE_NOTICES
from hedgerow_transport import (
    Delivery,
    DeliveryReport,
    MemoryHub,
    Presence,
    blob_digest,
    decode_message,
    parse_topic,
)


def test_the_first_model_is_taken_by_everybody_and_sent_once(farm: Farm) -> None:
    for name in ("a", "b", "c"):
        farm.start(name).results = {blob_digest(A): GOOD}
    found = farm.deliver(A)
    assert states(found) == {"a": "accepted", "b": "accepted", "c": "accepted"}
    assert [device.in_use for device in farm.devices.values()] == [A] * 3
    assert farm.num_chunks == 16  # 1000 bytes in chunks of 64, once for all three
    report = found.rows[0].report
    assert report is not None
    assert (report.numbers, report.in_use) == (
        {"after": 0.9, "samples": 100.0, "p50_ms": 1.5},
        blob_digest(A),
    )
    assert "before" not in report.numbers
    link = farm.directory / "a" / "delivery" / "model.onnx"
    assert link.read_bytes() == A


def test_the_same_delivery_again_sends_no_chunk_tries_nothing_and_says_the_same(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD}
    first = farm.deliver(A)
    second = farm.deliver(A)
    assert second.rows[0].report == first.rows[0].report
    assert farm.num_chunks == 0
    assert len(device.trials) == 1
    # The device is away: what it has answered stands at the broker.
    farm.kill("a")
    third = farm.deliver(A)
    assert (third.rows[0].report, third.rows[0].online) == (first.rows[0].report, False)
    # --again: tried anew, without sending the file.
    farm.start("a").results = {blob_digest(A): replace(GOOD, before=0.9, after=0.9)}
    assert states(farm.deliver(A, serial=7)) == {"a": "accepted"}
    assert farm.num_chunks == 0
    assert farm.devices["a"].trials == [blob_digest(A)]


def test_a_worse_model_is_not_taken_and_the_last_good_one_stays(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.7)}
    farm.deliver(A)
    found = farm.deliver(B)
    assert states(found) == {"a": "worse"}
    assert found.rows[0].report is not None
    assert found.rows[0].report.numbers == {"before": 0.9, "after": 0.7, "samples": 100.0, "p50_ms": 1.5}
    assert device.in_use == A
    assert device.shelf.read(blob_digest(B)) is None  # it does not keep the disk busy
    assert "worse" in device.said[-1]
    # A tolerance that is wide enough is another offer.
    assert states(farm.deliver(B, max_drop=20.0)) == {"a": "accepted"}
    assert device.in_use == B
    shelf = device.shelf.look()
    assert (shelf.current, shelf.previous) == (blob_digest(B), blob_digest(A))


@pytest.mark.parametrize(
    ("before", "after", "samples", "drop", "outcome"),
    [
        (0.90, 0.895, 1000, 0.5, "accepted"),
        (0.90, 0.894, 1000, 0.5, "worse"),
        (0.90, 0.88, 50, 0.5, "accepted"),  # one sample of fifty
        (0.90, 0.86, 50, 0.5, "worse"),
        (0.90, math.nan, 50, 50.0, "refused"),
        (None, math.nan, 50, 0.5, "refused"),
        (None, 0.0, 50, 0.5, "accepted"),
    ],
)
def test_what_is_as_good(
    farm: Farm, before: float, after: float, samples: int, drop: float, outcome: str
) -> None:
    farm.start("a").results = {blob_digest(A): replace(GOOD, before=before, after=after, samples=samples)}
    assert states(farm.deliver(A, max_drop=drop)) == {"a": outcome}


def test_a_model_that_cannot_be_used_is_refused_with_its_reason(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): TrialResult(refusal="it crashes (SIGABRT)")}
    farm.deliver(A)
    found = farm.deliver(B)
    assert found.rows[0].report is not None
    assert (found.rows[0].state, found.rows[0].report.reason) == ("refused", "it crashes (SIGABRT)")
    assert device.in_use == A
    farm.deliver(B)
    assert farm.num_chunks == 0  # what it has refused is not fetched again


def test_a_model_without_room_is_refused_before_a_byte_of_it_comes(farm: Farm) -> None:
    device = farm.start("a")
    device.room = 999
    found = farm.deliver(A)
    assert found.rows[0].report is not None
    assert found.rows[0].report.reason == "it has 1,000 bytes, and this device has room for 999"
    assert farm.num_chunks == 0
    # That was that moment's.
    device.room, device.results = 1000, {blob_digest(A): GOOD}
    farm.kill("a")
    farm.start("a")
    assert states(farm.deliver(A)) == {"a": "accepted"}


def test_losses_and_duplicates_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def lost(topic: str, payload: bytes, receiver: str) -> bool:
        parsed = parse_topic(topic)
        return parsed is not None and parsed.kind == "blob" and bool(rng.random() < 0.4)

    farm = Farm(tmp_path, MemoryHub(drop=lost, duplicate=lambda *_: bool(rng.random() < 0.3)))
    for name in ("a", "b"):
        farm.start(name).results = {blob_digest(A): GOOD}
    assert states(farm.deliver(A)) == {"a": "accepted", "b": "accepted"}
    assert [device.in_use for device in farm.devices.values()] == [A, A]
    assert all(len(device.trials) == 1 for device in farm.devices.values())


def test_a_device_that_is_killed_while_it_fetches_asks_for_the_rest_alone(farm: Farm) -> None:
    model = blob(4, 40_000)
    device = farm.start("a")
    device.results = {blob_digest(model): GOOD}

    def has_some(found: Deliverer) -> bool:
        part = farm.directory / "a" / "delivery" / "parts" / f"{blob_digest(model).hex()}.part"
        return part.exists() and part.stat().st_size > 15_000

    farm.deliver(model, until=has_some, bytes_per_s=10_000)
    sent_first = farm.num_chunks
    assert 100 < sent_first < 400  # of 625
    # Both lose their power: device and gateway.
    farm.kill("a")
    device = farm.start("a")
    assert states(farm.deliver(model, bytes_per_s=10_000)) == {"a": "accepted"}
    assert device.in_use == model
    assert sent_first + farm.num_chunks <= 625 + 20  # what was on its way at the kill


def test_a_device_that_comes_late_is_served_and_one_that_is_too_old_is_not_waited_for(farm: Farm) -> None:
    old = farm.hub.connect("old", (FARM.manifest, FARM.blob(bytes(16))))
    birth = Presence(client="old", session=1, online=True, profile={"cores": 4})
    old.publish(FARM.presence("old"), birth.encode(), retain=True)
    begun = farm.now

    def start_late(found: Deliverer) -> bool:
        if farm.now > begun + 20 and "late" not in farm.devices:
            farm.start("late").results = {blob_digest(A): GOOD}
        return False

    found = farm.deliver(A, until=start_late)
    assert states(found) == {"late": "accepted", "old": "too old"}
    assert farm.now < begun + 40


def test_nobody_answers_and_the_time_is_up(farm: Farm) -> None:
    farm.start("a")  # it never ends its trial
    found = farm.deliver(A, wait_s=30.0)
    assert states(found) == {"a": "trying"}
    assert 30 <= farm.now < 31
    # It is told again and again that its answer is waited for.
    offers = [p for p in farm.sent if p.topic == FARM.delivery]
    assert 2 <= len(offers) <= 3


def test_only_the_devices_meant_take_it(farm: Farm) -> None:
    for name in ("pi-1", "pi-2", "shed"):
        farm.start(name).results = {blob_digest(A): GOOD}
    assert states(farm.deliver(A, devices="pi-*")) == {"pi-1": "accepted", "pi-2": "accepted"}
    assert farm.devices["shed"].in_use is None
    assert states(farm.deliver(A, devices="s?ed,x")) == {"shed": "accepted"}


def test_an_older_model_that_is_delivered_again_is_tried_again(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.95)}
    farm.deliver(A)
    farm.deliver(B)
    device.results[blob_digest(A)] = replace(GOOD, before=0.95, after=0.95)
    assert states(farm.deliver(A)) == {"a": "accepted"}
    assert device.in_use == A
    assert farm.num_chunks == 0  # it was on the shelf


def test_another_delivery_takes_the_place_of_one_under_way(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(B): GOOD}
    farm.deliver(A, until=lambda found: device.session.trial is not None)
    assert states(farm.deliver(B)) == {"a": "accepted"}
    assert device.in_use == B


def test_a_model_that_is_put_back_by_hand_stays_so(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.9)}
    farm.deliver(A)
    farm.deliver(B)
    beside = ModelShelf(device.directory)
    assert beside.back() == blob_digest(A)
    found = farm.deliver(B)
    assert found.rows[0].report is not None
    assert (found.rows[0].state, found.rows[0].report.reason) == (
        "refused",
        "it was put back by hand on this device",
    )
    assert device.in_use == A
    assert (device.directory / "delivery" / "model.onnx").read_bytes() == A
    assert beside.back() == blob_digest(B)
    with pytest.raises(StateError, match="there is no model before"):
        ModelShelf(farm.directory / "empty").back()


def test_two_deliveries_at_a_time_the_first_one_ends(farm: Farm) -> None:
    first = Deliverer(A, offer(A), topics=FARM, wait_s=60.0)
    first.start(0.0)
    first.handle(FARM.delivery, offer(A).encode(), now=0.1)  # our own words
    assert not first.done(0.2)
    first.take_publications()
    first.handle(FARM.delivery, offer(A, open=False).encode(), now=0.3)  # an earlier call's end, or our will
    assert [decode_message(p.payload, Delivery).open for p in first.take_publications()] == [True]
    first.handle(FARM.delivery, offer(B).encode(), now=0.4)
    assert first.displaced
    assert first.done(0.5)


def test_garbage_has_no_effect_and_is_told_a_few_times_only(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD}
    for _ in range(MAX_GARBAGE_NOTICES + 5):
        device.session.handle(FARM.delivery, b"\xc1 garbage", now=0.0)
    assert len(device.session.handle(FARM.delivery, b"garbage", now=0.0)) == 0
    found = farm.deliver(A)
    for topic in (FARM.need, FARM.up("a", "report"), FARM.presence("a"), FARM.delivery):
        found.handle(topic, b"garbage", now=0.0)
    found.handle(FARM.up("b", "report"), found.rows[0].report.encode(), now=0.0)  # type: ignore[union-attr]
    found.handle(FARM.presence("b"), Presence(client="c", session=1, online=True).encode(), now=0.0)
    assert found.garbage == 5
    assert states(found)["a"] == "accepted"


def test_a_report_of_another_delivery_or_an_older_word_changes_nothing(farm: Farm) -> None:
    found = Deliverer(A, offer(A), topics=FARM, wait_s=60.0)
    last = DeliveryReport(model=blob_digest(A), outcome="accepted")
    for report in (replace(last, model=blob_digest(B)), last, replace(last, outcome="fetching")):
        found.handle(FARM.up("a", "report"), report.encode(), now=0.0)
    assert states(found) == {"a": "accepted"}
