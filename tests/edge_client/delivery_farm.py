"""Devices that follow deliveries over the in-memory link, and the coordinator's side of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hedgerow_coordinator import Deliverer
from hedgerow_edge_client import DeliverySession, ModelShelf, TrialResult
from hedgerow_transport import (
    BlobRef,
    Delivery,
    MemoryHub,
    MemoryLink,
    Presence,
    Publication,
    Received,
    Topics,
    Will,
    blob_digest,
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


def states(found: Deliverer) -> dict[str, str]:
    return {row.name: row.state for row in found.rows}


A, B, C = blob(1), blob(2), blob(3)
