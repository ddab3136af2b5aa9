"""A real Mosquitto on loopback, and links to it whose events can be waited for."""

from __future__ import annotations

import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hedgerow_transport import (
    Broker,
    BrokerMissing,
    Connected,
    LinkEvent,
    LinkLimits,
    MqttLink,
    Received,
    start_broker,
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
