"""A real Mosquitto on loopback, and links to it whose events can be waited for."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hedgerow_transport import (
    Accept,
    BlobRef,
    Broker,
    BrokerMissing,
    Connected,
    CoordinatorState,
    Credentials,
    Decline,
    Device,
    Devices,
    Guard,
    LinkEvent,
    LinkLimits,
    Manifest,
    MessageRefused,
    MqttLink,
    Offer,
    Presence,
    Received,
    SigningKey,
    Topics,
    start_broker,
    write_credentials,
)

E = TypeVar("E", bound=LinkEvent)


class Links:
    """Open links, wait for their events, and close them at the end."""

    def __init__(self) -> None:
        self._links: list[MqttLink] = []

    def open(self, url: str, client_id: str, *filters: str, **options: Any) -> MqttLink:
        """Return a link that is up; its ``Connected`` is taken."""
        options.setdefault("limits", LinkLimits(min_backoff_s=0.02, max_backoff_s=0.2))
        link = MqttLink(url, client_id=client_id, filters=filters, **options)
        self._links.append(link)
        link.connect(5.0)
        assert link.events.get(timeout=1.0) == Connected()
        return link

    def received(self, link: MqttLink, *, timeout_s: float = 5.0) -> Received:
        """Return the next event, which must be a message."""
        event = link.events.get(timeout=timeout_s)
        assert isinstance(event, Received), event
        return event

    def until(self, link: MqttLink, kind: type[E], *, timeout_s: float = 10.0) -> E:
        """Return the next event of a kind; others before it are skipped."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            event = link.events.get(timeout=max(0.01, give_up_at - time.monotonic()))
            if isinstance(event, kind):
                return event

    def is_quiet(self, link: MqttLink, *, for_s: float = 0.2) -> bool:
        """Say whether no event comes for a while."""
        try:
            link.events.get(timeout=for_s)
        except queue.Empty:
            return True
        return False

    def close(self) -> None:
        for link in self._links:
            link.close()


@pytest.fixture
def links() -> Iterator[Links]:
    opened = Links()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def mosquitto() -> Callable[..., Broker]:
    """Start Mosquitto in a directory; where it is not installed, tests fail."""

    def start(directory: Path, *, port: int = 0) -> Broker:
        try:
            return start_broker(directory=directory, port=port, prefer="mosquitto")
        except BrokerMissing as error:
            pytest.fail(f"Mosquitto is missing: apt-get install mosquitto ({error})")

    return start


@pytest.fixture(scope="session")
def open_directory_factory() -> Iterator[Callable[[], Path]]:
    """Make directories that the user `mosquitto` can enter, which those of pytest are not under root."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="hedgerow-test-")))
        made[-1].chmod(0o755)
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def broker(mosquitto: Callable[..., Broker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto")) as started:
        yield started


FARM = Topics("farm")


MADE = 1_700_000_000


NOW = MADE + 1_000_000


EXPIRES = MADE + 2 * 365 * 86_400


D = bytes(range(16))


@dataclass
class Clock:
    """Unix time and seconds since a start, which a test can set apart."""

    unix: float = NOW
    seconds: float = 0.0

    def guard(self, credentials: Credentials, *, topics: Topics = FARM, looks_on: bool = False) -> Guard:
        return Guard(
            credentials,
            topics=topics,
            wall_clock=lambda: self.unix,
            clock=lambda: self.seconds,
            looks_on=looks_on,
        )

    def __iadd__(self, seconds: float) -> Clock:
        self.unix += seconds
        self.seconds += seconds
        return self


class Farm:
    """A coordinator, and devices that it knows by name."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        self._key = SigningKey.generate()
        self._write("coordinator", self._key)
        self.register = directory / "coordinator" / "devices.json"
        self.known: dict[str, Device] = {}
        for name in names:
            self.add(name)
        self.save()

    def add(self, name: str, *, folder: str = "") -> Credentials:
        key = SigningKey.generate()
        self._write(folder or name, key, name=name)
        self.known[name] = Device(signing_key=key.public, serial=1, expires=EXPIRES)
        self.save()
        return self.of(folder or name)

    def revoke(self, name: str) -> None:
        self.known[name] = replace(self.known[name], revoked=NOW)
        self.save()

    def save(self) -> None:
        Devices(by_name=self.known).write(self.register)

    def of(self, name: str) -> Credentials:
        return Credentials.load(self.directory / name)

    def _write(self, folder: str, key: SigningKey, *, name: str = "") -> None:
        write_credentials(
            self.directory / folder,
            role="device" if name else "coordinator",
            name=name or "coordinator.hedgerow",
            authority=b"ca",
            certificate=b"cert",
            key=b"key",
            signing_key=key,
            coordinator_key=self._key.public,
            made=MADE,
            expires=EXPIRES,
        )


def manifest(*, state: str = "round", round_number: int = 1, cohort: int = 0, reason: str = "") -> bytes:
    message = Manifest(
        run="trial-1",
        state=state,
        round=round_number,
        attempt=1,
        version=round_number - 1,
        layout=D,
        mask=D,
        model=D,
        plan=BlobRef(kind="plan", digest=D, size=10),
        steps=(),
        base_version=-1,
        cohort=bytes(4 * cohort),
        deadline_s=10.0,
        reason=reason,
    )
    return message.encode()


def offer(*, round_number: int = 1) -> bytes:
    update = BlobRef(kind="update", digest=D, size=100)
    return Offer(run="trial-1", round=round_number, update=update, num_samples=3).encode()


def decline() -> bytes:
    return Decline(run="trial-1", round=1, reason="too hot").encode()


def presence(client: str, *, online: bool = True, session: int = 1) -> bytes:
    return Presence(client=client, session=session, online=online).encode()


def here(*, online: bool = True) -> bytes:
    return CoordinatorState(run="trial-1", session=1, online=online).encode()


def accept(*, round_number: int = 1) -> bytes:
    return Accept(run="trial-1", round=round_number, digest=D).encode()


OFFER, PRESENCE, DOWN = FARM.up("a", "offer"), FARM.presence("a"), FARM.down("a")


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path, "a", "b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lead(farm: Farm, clock: Clock) -> Guard:
    return clock.guard(farm.of("coordinator"))


@pytest.fixture
def a(farm: Farm, clock: Clock) -> Guard:
    return clock.guard(farm.of("a"))


def refusal(guard: Guard, topic: str, payload: bytes) -> tuple[str, str]:
    """Return sender and reason of a refusal, which must come."""
    with pytest.raises(MessageRefused) as caught:
        guard.open(topic, payload)
    assert "\n" not in str(caught.value)
    return caught.value.sender, caught.value.reason


def drain(link: object) -> list[object]:
    found = []
    while True:
        try:
            found.append(link.events.get_nowait())  # type: ignore[attr-defined]
        except queue.Empty:
            return found


FAST = LinkLimits(min_backoff_s=0.02, max_backoff_s=0.2)


def port_of(broker: Broker) -> int:
    return int(broker.url.rpartition(":")[2])


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve connections one after the other with a function; yields the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(5.0)
                        answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def read_packet(connection: socket.socket) -> bytes:
    """Read one MQTT packet, header included; empty at the end."""
    head = connection.recv(1)
    length, shift = 0, 0
    while head:
        digit = connection.recv(1)
        head += digit
        length |= (digit[0] & 127) << shift
        shift += 7
        if digit[0] < 128:
            break
    while length:
        part = connection.recv(length)
        head += part
        length -= len(part)
    return head


def packet_of(topic: bytes, payload: bytes) -> bytes:
    """Return a PUBLISH packet of QoS 0 with 3 bytes of remaining length."""
    length = 2 + len(topic) + len(payload)
    digits = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
    return b"\x30" + digits + len(topic).to_bytes(2, "big") + topic + payload


@contextlib.contextmanager
def private_mosquitto(directory: Path, options: str) -> Iterator[int]:
    """Run Mosquitto with a configuration of the test's own; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "test.conf"
    config.write_text(f"user root\nlistener {port} 127.0.0.1\n{options}")
    from hedgerow_transport.broker import find_mosquitto

    program = find_mosquitto()
    assert program is not None, "Mosquitto is missing: apt-get install mosquitto"
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(5.0)
