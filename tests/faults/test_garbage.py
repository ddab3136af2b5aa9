"""Somebody hostile at the broker, while a run goes on: garbage on every topic, lies about sizes, a flood."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import psutil
import pytest
from benchmarks.light import light_plan
from benchmarks.light.schedule import UPLINK, Federation

from hedgerow_coordinator import RunStore
from hedgerow_transport import (
    Ack,
    BlobRef,
    LinkOverflow,
    Manifest,
    MqttLink,
    Need,
    Offer,
    Presence,
    Received,
    Sync,
    Topics,
    blob_digest,
    decode_down,
    decode_message,
    encode_chunk,
)

TOPICS = Topics("default")
NAME = "mallory"
ROUNDS = 3
# A decoder that believed a length, or kept what it does not understand, would take far more.
MAX_GROWTH_BYTES = 32 << 20
FLOOD_PER_S = 2000
UNHEARD = f"{NAME} is not heard for 5 minutes"


class Siege:
    """A coordinator that waits for two clients, and somebody at the broker who is none."""

    def __init__(self, folder: Path, *, clients: int = 2) -> None:
        self.folder = folder
        plan = light_plan(
            rounds=ROUNDS,
            clients=clients,
            uplink=UPLINK,
            deadline_s=30.0,
            transport={"chunk_bytes": 1024},
        )
        (folder / "plan.toml").write_text(plan.to_toml())
        self.federation = Federation(folder)
        self.federation.start("broker")
        self.federation.start("coordinator")
        self.until(lambda: "waiting for clients" in self.said, "coordinator")
        pid = self.federation.processes["coordinator"].pid
        self._process = psutil.Process(pid)
        self._rss = self._process.memory_info().rss
        url = f"mqtt://127.0.0.1:{self.federation.port}"
        self.mallory = MqttLink(url, client_id=NAME, filters=[TOPICS.manifest, TOPICS.down(NAME)])
        self.mallory.connect()
        self.growth = 0
        self.clients: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        return self.federation.said("coordinator")

    def until(self, condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> None:
        give_up_at = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_at, f"no {what} within {timeout_s:g} s: {self.said[-500:]}"
            time.sleep(0.02)

    def next_of(self, kind: type, *, timeout_s: float = 20.0) -> object:
        """Return the next message of a kind that reaches mallory."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            event = self.mallory.events.get(timeout=max(0.01, give_up_at - time.monotonic()))
            if not isinstance(event, Received):
                continue
            if event.topic == TOPICS.manifest:
                message: object = decode_message(event.payload, Manifest)
            else:
                message = decode_down(event.payload)
            if isinstance(message, kind):
                return message

    def start(self, *clients: str) -> None:
        """Let clients come."""
        self.clients += clients
        for name in clients:
            self.federation.start(name)

    def finish(self, *, timeout_s: float = 60.0) -> None:
        """Wait until the run has ended as if nobody else was there."""
        clients = self.clients
        give_up_at = time.monotonic() + timeout_s
        while self.federation.processes["coordinator"].is_alive() and time.monotonic() < give_up_at:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.growth = max(self.growth, self._process.memory_info().rss - self._rss)
            time.sleep(0.05)
        self.federation.await_end(time.monotonic() + 20.0)
        with RunStore.open(self.folder / "run", read_only=True) as store:
            taken = sorted((each.round, each.client) for each in store.update_records())
        assert taken == sorted((number, name) for number in range(1, ROUNDS + 1) for name in clients)
        for name in ("coordinator", *clients):
            assert "Traceback" not in self.federation.said(name)
        assert self.growth < MAX_GROWTH_BYTES
        print(f"\nthe coordinator grew by {self.growth / 2**20:.1f} MiB, {len(self.said.splitlines())} lines")


@pytest.fixture
def besiege(open_directory: Callable[[], Path]) -> Iterator[Callable[..., Siege]]:
    with contextlib.ExitStack() as stack:

        def make(**options: int) -> Siege:
            siege = Siege(open_directory(), **options)
            stack.enter_context(siege.federation)
            stack.callback(siege.mallory.close)
            return siege

        yield make


def offer(data: bytes, *, size: int | None = None, chunk_bytes: int = 1024) -> Offer:
    return Offer(
        run="light",
        round=1,
        update=BlobRef(kind="update", digest=blob_digest(data), size=size or len(data)),
        num_samples=10,
        received_bytes=0,
        chunk_bytes=chunk_bytes,
    )


def garbage() -> list[bytes]:
    chance = random.Random(5)
    good = [
        offer(b"x" * 100).encode(),
        Sync(version=0, model=bytes(16)).encode(),
        Need(digest=bytes(16), bitmap=b"\xff").encode(),
        Presence(client=NAME, session=1, online=True, profile={"a": 1}).encode(),
    ]
    words = [msgpack.unpackb(each, strict_map_key=False) for each in good]
    wrong = [{**word, key: bad} for word in words for key in word for bad in (None, -1, [], {}, "x")]
    return [
        *(chance.randbytes(size) for size in (1, 2, 16, 500, 9000, 100_000, 1_000_000)),
        # Other versions, other tags, and values of every other type.
        *(msgpack.packb({**word, "v": 99}) for word in words),
        *(msgpack.packb({**word, "t": 77}) for word in words),
        *map(msgpack.packb, wrong),
        # Deep, long, and longer than it is.
        b"\x81\xa1r" * 3000 + b"\xc0",
        b"\x91" * 100_000,
        *(bytes([head]) + b"\xff\xff\xff\xff" for head in (0xDD, 0xDF, 0xC6, 0xDB, 0xC9)),
        *(each[:-1] for each in good),
        encode_chunk(65_535, b"z" * 1000),
        encode_chunk(0, b"z")[:-1],
    ]


def test_garbage_on_every_topic_is_named_and_stops_nobody(besiege: Callable[..., Siege]) -> None:
    siege = besiege()
    everywhere = [
        *(TOPICS.up(NAME, kind) for kind in ("offer", "chunk", "decline", "sync")),
        TOPICS.presence(NAME),
        TOPICS.need,
        TOPICS.manifest,
        TOPICS.coordinator,
        TOPICS.blob(bytes(16)),
        TOPICS.down("a"),
        TOPICS.down(NAME),
    ]
    siege.start("a")
    siege.until(lambda: "a is here" in siege.said, "client")
    for payload in garbage():
        for topic in everywhere:
            siege.mallory.publish(topic, payload, qos=1)
    assert siege.mallory.flush(30.0)
    siege.until(lambda: UNHEARD in siege.said, "quarantine")
    siege.start("b")
    siege.finish()
    assert f"up/{NAME}/offer" in siege.said
    assert siege.said.count(UNHEARD) == 1
    assert len(siege.said.splitlines()) < 80
    assert "ignored a message on" in siege.federation.said("a")


def test_lies_about_sizes_take_no_memory_and_no_round(besiege: Callable[..., Siege]) -> None:
    siege = besiege(clients=1)
    birth = Presence(client=NAME, session=1, online=True)
    siege.mallory.publish(TOPICS.presence(NAME), birth.encode(), qos=1)
    siege.until(lambda: f"{NAME} is here" in siege.said, "birth")

    def say(kind: str, payload: bytes) -> None:
        siege.mallory.publish(TOPICS.up(NAME, kind), payload, qos=1)

    # Four gigabytes.
    say("offer", offer(b"x", size=2**32 - 1, chunk_bytes=1 << 20).encode())
    refused = siege.next_of(Ack)
    assert isinstance(refused, Ack)
    assert (refused.status, "are more than the" in refused.reason) == ("refused", True)
    # Less than what comes, chunks that are no part of it, and in the end other bytes than were announced.
    data = bytes(3000)
    say("offer", offer(data, size=100).encode())
    for index in range(4):
        say("chunk", encode_chunk(index, data[:1000]))
    for turn in range(8):
        say("offer", offer(bytes([turn]) * 3000, chunk_bytes=1024).encode())
        for index, size in ((0, 1024), (1, 1024), (2, 3000 - 2048)):
            say("chunk", encode_chunk(index, b"?" * size))
    siege.until(lambda: UNHEARD in siege.said, "quarantine")
    assert "the digest does not match" in siege.said
    siege.start("a")
    siege.finish()


def test_a_flood_does_not_keep_the_coordinator_from_answering(besiege: Callable[..., Siege]) -> None:
    siege = besiege()
    stop, sent = threading.Event(), [0]
    words = [
        (TOPICS.up(NAME, "offer"), offer(bytes(3000)).encode()),
        (TOPICS.up(NAME, "sync"), Sync(version=-1, model=bytes(16)).encode()),
        (TOPICS.up(NAME, "chunk"), encode_chunk(1, bytes(1024))),
        (TOPICS.up(NAME, "offer"), b"\x00" * 50),
        (TOPICS.need, b"\x00" * 50),
    ]

    def flood() -> None:
        started = time.monotonic()
        while not stop.is_set():
            # Faster than that it would be the broker that is tested.
            stop.wait(max(0.0, started + sent[0] / FLOOD_PER_S - time.monotonic()))
            for topic, payload in words * 10:
                try:
                    siege.mallory.publish(topic, payload)
                    sent[0] += 1
                except LinkOverflow:
                    stop.wait(0.01)
            with contextlib.suppress(queue.Empty):
                while True:
                    siege.mallory.events.get_nowait()

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        siege.until(lambda: UNHEARD in siege.said, "quarantine")
        siege.start("a", "b")
        siege.finish(timeout_s=90.0)
    finally:
        stop.set()
        flooder.join()
    print(f"{sent[0]:,} messages were sent meanwhile")
    assert sent[0] > FLOOD_PER_S
    assert len(siege.said.splitlines()) < 80
