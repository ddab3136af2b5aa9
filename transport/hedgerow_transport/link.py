"""What a link to a broker is: events come in on a queue, `publish` never waits."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from hedgerow_transport.errors import MessageRefused, TopicError
from hedgerow_transport.traffic import Traffic

MAX_TOPIC_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up and its filters are subscribed: publish presence, offer again what is pending."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is down. It comes back by itself, unless `fatal`: then somebody else must decide."""

    reason: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message came. `retained`: it was waiting at the broker and is not news."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A message came that its sender may not say; see `hedgerow_transport.SignedLink`."""

    topic: str
    refusal: MessageRefused
    retained: bool = False


LinkEvent = Connected | Disconnected | Received | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the broker publishes for a client that vanishes without a farewell."""

    topic: str
    payload: bytes
    retain: bool = True

    def __post_init__(self) -> None:
        check_topic(self.topic)


# Called once for each connection.
WillMaker = Callable[[], Will | None]


class Link(Protocol):
    """A connection to a broker, as the session and the coordinator see it."""

    @property
    def events(self) -> queue.Queue[LinkEvent]:
        """What happened, in order."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes of PUBLISH packets both ways."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 0) -> None:
        """Queue a message. While the link is down, QoS 0 is dropped and QoS 1 waits.

        Raises
        ------
        LinkOverflow
            When too many bytes wait already.
        PacketTooLarge
            When the broker is known to refuse packets of this size.
        LinkClosed
            After `close`.
        """

    def subscribe(self, filters: Iterable[str]) -> None:
        """Add topic filters, now and at each connect to come."""

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Take topic filters away."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was queued is out (QoS 1: acknowledged); say whether that was reached."""
        ...

    def close(self, *, graceful: bool = True) -> None:
        """Say farewell to the broker, so that the will is not published, and stop. Twice does no harm.

        Not `graceful`: without the farewell, as when the power fails.
        """


def check_topic(topic: str) -> str:
    """Return a topic that can be published to.

    Raises
    ------
    TopicError
        For an empty or overlong one, or one with a wildcard or a NUL (MQTT 3.1.1, 4.7).
    """
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES or any(char in topic for char in "+#\0"):
        raise TopicError(f"cannot publish to the topic {topic[:120]!r}")
    return topic


def check_filter(topic_filter: str) -> str:
    """Return a topic filter that can be subscribed to.

    Raises
    ------
    TopicError
        When it is empty or overlong, or a wildcard stands where none may (MQTT 3.1.1, 4.7.1).
    """
    levels = topic_filter.split("/")
    wrong = any(
        ("#" in level and (level != "#" or place != len(levels) - 1)) or ("+" in level and level != "+")
        for place, level in enumerate(levels)
    )
    if not topic_filter or wrong or "\0" in topic_filter or len(topic_filter.encode()) > MAX_TOPIC_BYTES:
        raise TopicError(f"cannot subscribe to {topic_filter[:120]!r}")
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a topic filter selects a topic (MQTT 3.1.1, 4.7).

    >>> matches("a/+/c", "a/b/c"), matches("a/#", "a"), matches("a/+", "a/b/c")
    (True, True, False)
    """
    if topic.startswith("$") and not topic_filter.startswith("$"):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(
        want in ("+", level) for want, level in zip(wanted, levels, strict=True)
    )
