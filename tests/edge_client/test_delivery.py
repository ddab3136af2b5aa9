"""Deliveries over the in-memory link: losses, duplicates, restarts, worse and broken models, power cuts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import hedgerow_edge_client.model_shelf as shelf_module
from hedgerow_coordinator import Deliverer
from hedgerow_edge_client import DeliverySession, ModelShelf, StateError, TrialResult
from hedgerow_edge_client.delivery import MAX_GARBAGE_NOTICES
from hedgerow_transport import (
    BlobRef,
    Delivery,
    DeliveryReport,
    MemoryHub,
    MemoryLink,
    Presence,
    Publication,
    Received,
    Topics,
    Will,
    blob_digest,
    decode_message,
    parse_topic,
)

FARM = Topics("farm")
GOOD = TrialResult(metric="accuracy", after=0.9, samples=100, p50_ms=1.5)
CHUNK = 64


def blob(seed: int, size: int = 1000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def offer(model: bytes, **changes: object) -> Delivery:
    ref = BlobRef(kind="export", digest=blob_digest(model), size=len(model))
    return replace(Delivery(model=ref, chunk_bytes=CHUNK), **changes)  # type: ignore[arg-type]


@dataclass
class Device:
    """A client that does nothing but follow deliveries; its trials end as the test says."""

    name: str
    directory: Path
    link: MemoryLink
    results: dict[bytes, TrialResult] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    trials: list[bytes] = field(default_factory=list)
    room: int = 1 << 20

    def __post_init__(self) -> None:
        self.shelf = ModelShelf(self.directory)
        self.shelf.mend()
        self.session = DeliverySession(
            self.name,
            topics=FARM,
            shelf=self.shelf,
            jitter=lambda: 0.25,
            room=lambda: self.room,
            wall_clock=lambda: 1e9,
        )
        birth = Presence(client=self.name, session=1, online=True, profile={"deliveries": 1})
        self.link.publish(FARM.presence(self.name), birth.encode(), retain=True)

    def step(self, now: float) -> None:
        told = []
        while not self.link.events.empty():
            event = self.link.events.get()
            if isinstance(event, Received):
                told += self.session.handle(event.topic, event.payload, now=now)
            elif self.link.connected:
                self.session.connected(now)
        told += self.session.tick(now)
        trial = self.session.trial
        if trial is not None and trial.delivery.model.digest in self.results:
            self.trials.append(trial.delivery.model.digest)
            told += self.session.tried(self.results[trial.delivery.model.digest], now=now)
        for action in told:
            if isinstance(action, Publication):
                self.link.publish(action.topic, action.payload, retain=action.retain, qos=action.qos)
            else:
                self.said.append(action.text)

    @property
    def in_use(self) -> bytes | None:
        found = self.shelf.load()
        return None if found is None else found[1]


class Farm:
    """A hub, devices, and one delivery after the other."""

    def __init__(self, directory: Path, hub: MemoryHub | None = None) -> None:
        self.directory = directory
        self.hub = hub or MemoryHub()
        self.devices: dict[str, Device] = {}
        self.now = 0.0
        self.sent: list[Publication] = []

    def start(self, name: str, **results: TrialResult) -> Device:
        gone = Presence(client=name, session=1, online=False, profile={})
        will = Will(topic=FARM.presence(name), payload=gone.encode())
        link = self.hub.connect(name, FARM.client_filters(name), will)
        before = self.devices.get(name)
        device = Device(name=name, directory=self.directory / name, link=link)
        if before is not None:
            device.results = before.results
        self.devices[name] = device
        return device

    def kill(self, name: str) -> None:
        self.devices[name].link.drop()

    def deliver(
        self,
        model: bytes,
        *,
        wait_s: float = 300.0,
        until: Callable[[Deliverer], bool] | None = None,
        bytes_per_s: float = 0.0,
        **changes: object,
    ) -> Deliverer:
        link = self.hub.connect("deliverer", FARM.deliverer_filters())
        found = Deliverer(
            model, offer(model, **changes), topics=FARM, wait_s=wait_s, max_bytes_per_s=bytes_per_s
        )
        self.take(found, link)
        found.start(self.now)
        self.sent.clear()
        while not found.done(self.now) and not (until is not None and until(found)):
            found.tick(self.now)
            for publication in found.take_publications():
                self.sent.append(publication)
                link.publish(
                    publication.topic, publication.payload, retain=publication.retain, qos=publication.qos
                )
            for device in list(self.devices.values()):
                if device.link.connected:
                    device.step(self.now)
            self.take(found, link)
            self.now += 0.1
        last = found.closing()
        link.publish(last.topic, last.payload, retain=True, qos=1)
        link.close()
        return found

    def take(self, found: Deliverer, link: MemoryLink) -> None:
        while not link.events.empty():
            event = link.events.get()
            if isinstance(event, Received):
                found.handle(event.topic, event.payload, now=self.now, retained=event.retained)

    @property
    def num_chunks(self) -> int:
        return sum((parsed := parse_topic(p.topic)) is not None and parsed.kind == "blob" for p in self.sent)


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


def states(found: Deliverer) -> dict[str, str]:
    return {row.name: row.state for row in found.rows}


A, B, C = blob(1), blob(2), blob(3)


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


class PowerCut(BaseException):
    """What ends a process at once."""


def test_a_power_cut_at_any_step_of_a_switch_leaves_one_good_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that touches the disk in a switch is, in turn, the last one of the process."""
    steps = 0
    while True:
        directory = tmp_path / str(steps)
        farm = Farm(directory)
        device = farm.start("a")
        device.results = {blob_digest(A): GOOD}
        farm.deliver(A)
        count = 0

        def cut(call: Callable[..., object], last: int) -> Callable[..., object]:
            def counted(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count > last:
                    raise PowerCut
                return call(*arguments, **named)

            return counted

        import os

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "open"):
                patch.setattr(os, name, cut(getattr(os, name), steps))
            device.results[blob_digest(B)] = replace(GOOD, before=0.9, after=0.95)
            try:
                farm.deliver(B)
                whole = True
            except PowerCut:
                whole = False
        farm.hub = MemoryHub()
        again = farm.start("a")
        assert again.in_use in (A, B)
        again.results = {blob_digest(B): replace(GOOD, before=0.9, after=0.95)}
        assert states(farm.deliver(B)) == {"a": "accepted"}
        assert again.in_use == B
        assert (directory / "a" / "delivery" / "model.onnx").read_bytes() == B
        assert again.shelf.warnings == []
        if whole:
            break
        steps += 1
    assert steps >= 6


def test_a_damaged_file_of_the_model_in_use_gives_way_to_the_one_before(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.9)}
    farm.deliver(A)
    farm.deliver(B)
    (device.directory / "delivery" / "model.onnx").write_bytes(b"rotten")
    again = ModelShelf(device.directory)
    again.mend()
    assert again.load() == (blob_digest(A), A)
    assert "damaged" in again.warnings[0]
    assert (device.directory / "delivery" / "model.onnx").read_bytes() == A
    assert again.look().current == blob_digest(A)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"version": 2}', b'{"version": 1, "current": "zz"}', b"\xff" * 99]
)
def test_a_damaged_shelf_keeps_the_model_that_was_in_use(farm: Farm, damage: bytes) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD}
    farm.deliver(A)
    (device.directory / "delivery" / "shelf.json").write_bytes(damage)
    again = ModelShelf(device.directory)
    again.mend()
    assert again.load() == (blob_digest(A), A)
    assert "is damaged" in again.warnings[0]
    assert (device.directory / "delivery" / "shelf.json.damaged").read_bytes() == damage


def test_a_full_disk_refuses_and_the_model_in_use_stays(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.95)}
    farm.deliver(A)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf_module, "write_durably", full)
    found = farm.deliver(B, wait_s=20.0)
    assert found.rows[0].report is not None
    assert found.rows[0].state == "refused"
    assert "No space left on device" in found.rows[0].report.reason
    assert device.in_use == A
