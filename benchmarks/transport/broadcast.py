"""A model of 45 MB to 50 subscribers: what the coordinator sends, and what the broker needs."""

from __future__ import annotations

import queue
import random
import threading
import time

from benchmarks.faults import LinkProfile, Proxy
from benchmarks.light import light_plan
from benchmarks.transport.brokers import PlainClient, broker_for, peak_mib, scratch, wait_until
from benchmarks.transport.coordinator import CoordinatorProcess

from hedgerow_edge_client.fetch import Fetch
from hedgerow_transport import (
    BlobError,
    Connected,
    Manifest,
    MessageError,
    MqttLink,
    Presence,
    Received,
    Topics,
    decode_chunk,
    decode_message,
    parse_topic,
)

NUM_PARAMETERS = 45_000_000 // 4
NUM_SUBSCRIBERS = 50
TOPICS = Topics("default")


class Subscriber(threading.Thread):
    """A device that fetches the model as a client does, and does nothing with it.

    Attributes
    ----------
    model_bytes : int
        Size of what was fetched and checked; 0 until then.
    """

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name=name, daemon=True)
        self.model_bytes = 0
        self.stop = threading.Event()
        self._link = MqttLink(url, client_id=name, filters=TOPICS.client_filters(name))
        self._fetch: Fetch | None = None
        self._manifest: Manifest | None = None

    def run(self) -> None:
        self._link.connect(30.0)
        while not self.stop.is_set():
            try:
                event = self._link.events.get(timeout=0.1)
            except queue.Empty:
                event = None
            now = time.monotonic()
            if isinstance(event, Connected):
                birth = Presence(client=self.name, session=1, online=True)
                self._link.publish(TOPICS.presence(self.name), birth.encode(), retain=True, qos=1)
            elif isinstance(event, Received):
                self._take(event, now)
            if self._fetch is not None:
                for each in self._fetch.tick(now):
                    self._link.publish(each.topic, each.payload, qos=each.qos)
        self._link.close()

    def _take(self, event: Received, now: float) -> None:
        topic = parse_topic(event.topic)
        try:
            if topic is not None and topic.kind == "manifest":
                self._begin(decode_message(event.payload, Manifest), now)
            elif topic is not None and topic.digest is not None and self._fetch is not None:
                assert self._manifest is not None
                index, data = decode_chunk(event.payload, self._manifest.chunk_bytes)
                self._fetch.add(topic.digest, index, data, now=now)
                if self._fetch.complete and not self.model_bytes:
                    self.model_bytes = sum(len(self._fetch.data(ref.digest)) for ref in self._manifest.steps)
        except (MessageError, BlobError):
            return

    def _begin(self, manifest: Manifest, now: float) -> None:
        if self._manifest is not None and manifest.steps == self._manifest.steps:
            return
        self._manifest = manifest
        self._fetch = Fetch(
            manifest.steps,
            chunk_bytes=manifest.chunk_bytes,
            topics=TOPICS,
            jitter=random.random,
            heard_at=lambda: self._link.heard_at,
        )
        self._fetch.start(now)


def measure() -> dict[str, float]:
    """Broadcast with Hedgerow's coordinator; count whole TCP streams between it and the broker."""
    with (
        scratch() as folder,
        broker_for(folder) as (broker, port),
        Proxy(port, profile=LinkProfile()) as proxy,
    ):
        subscribers = [Subscriber(f"s{number}", broker.url) for number in range(NUM_SUBSCRIBERS)]
        for each in subscribers:
            each.start()
        plan = light_plan(rounds=1, clients=NUM_SUBSCRIBERS + 1)
        started = time.monotonic()
        with CoordinatorProcess(plan, broker=proxy.url, folder=folder, num_parameters=NUM_PARAMETERS) as led:
            wait_until(lambda: all(s.model_bytes for s in subscribers), "model at all", timeout_s=400)
            seconds = time.monotonic() - started
            model_bytes = subscribers[0].model_bytes
            result = {
                "model_bytes": model_bytes,
                "subscribers": NUM_SUBSCRIBERS,
                "coordinator_egress_bytes": proxy.up_bytes,
                "coordinator_egress_ratio": proxy.up_bytes / model_bytes,
                "broker_peak_rss_mib": peak_mib(broker.pid),
                "coordinator_rss_mib": led.peak_mib,
                "seconds": seconds,
            }
        for each in subscribers:
            each.stop.set()
        for each in subscribers:
            each.join(10.0)
    return result


def measure_plain() -> dict[str, float]:
    """Publish the same bytes as one message."""
    message = random.Random(1).randbytes(4 * NUM_PARAMETERS)
    with (
        scratch() as folder,
        broker_for(folder, plain=True) as (broker, port),
        Proxy(port, profile=LinkProfile()) as proxy,
    ):
        subscribers = [PlainClient(port, "model") for _ in range(NUM_SUBSCRIBERS)]
        publisher = PlainClient(proxy.port)
        started = time.monotonic()
        publisher.publish("model", message)
        for each in subscribers:
            _, payload = each.received.get(timeout=400)
            assert payload == message
        result = {
            "coordinator_egress_bytes": proxy.up_bytes,
            "coordinator_egress_ratio": proxy.up_bytes / len(message),
            "broker_peak_rss_mib": peak_mib(broker.pid),
            "seconds": time.monotonic() - started,
        }
        for client in (publisher, *subscribers):
            client.close()
    return result
