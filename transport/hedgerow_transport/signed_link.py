"""A link whose messages are signed on the way out and judged on the way in."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterable

from hedgerow_transport.errors import CredentialsError, MessageRefused, TopicError
from hedgerow_transport.guard import Guard
from hedgerow_transport.link import Link, LinkEvent, Received, Refused, Will
from hedgerow_transport.traffic import Traffic


class SignedLink:
    """A `Link` around another one; what may not be said comes as `Refused` instead of `Received`.

    Parameters
    ----------
    link : Link
        The way to the broker. Its will is a `SignedWill`.
    guard : Guard
        Signs and judges; closed with the link.
    """

    def __init__(self, link: Link, guard: Guard) -> None:
        self._link = link
        self._guard = guard
        self._events = _JudgedEvents(link.events, guard)

    @property
    def events(self) -> queue.Queue[LinkEvent]:
        """What happened, in order."""
        return self._events

    @property
    def traffic(self) -> Traffic:
        """Bytes of PUBLISH packets both ways, signatures included."""
        return self._link.traffic

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 0) -> None:
        """Sign and queue a message; raises as the link does, and `CredentialsError`."""
        self._link.publish(topic, self._guard.seal(topic, payload), retain=retain, qos=qos)

    def subscribe(self, filters: Iterable[str]) -> None:
        """Add topic filters."""
        self._link.subscribe(filters)

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Take topic filters away."""
        self._link.unsubscribe(filters)

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was queued is out."""
        return self._link.flush(timeout_s)

    def close(self, *, graceful: bool = True) -> None:
        """Close the link, and write down how far others have counted."""
        self._link.close(graceful=graceful)
        self._guard.close()


class SignedWill:
    """A last will that is signed anew for each connection, so that an old one cannot be played again.

    Parameters
    ----------
    guard : Guard
        Signs it.
    topic : str
    make : callable
        Returns the message, now.

    Raises
    ------
    CredentialsError
        When our counter cannot be written down.
    """

    def __init__(self, guard: Guard, *, topic: str, make: Callable[[], bytes]) -> None:
        self._guard = guard
        self._topic = topic
        self._make = make
        self._sealed = guard.seal(topic, make(), will=True)

    def __call__(self) -> Will:
        """Return the will of the next connection."""
        # On a full disk the one before is better than none.
        with contextlib.suppress(CredentialsError):
            self._sealed = self._guard.seal(self._topic, self._make(), will=True)
        return Will(topic=self._topic, payload=self._sealed)


class _JudgedEvents(queue.Queue[LinkEvent]):
    """The events of a link, each judged when it is taken, by the thread that takes it."""

    def __init__(self, inner: queue.Queue[LinkEvent], guard: Guard) -> None:
        super().__init__()
        self._inner = inner
        self._guard = guard

    def get(self, block: bool = True, timeout: float | None = None) -> LinkEvent:
        self._guard.tick()
        event = self._inner.get(block, timeout)
        if not isinstance(event, Received):
            return event
        try:
            message = self._guard.open(event.topic, event.payload)
        except MessageRefused as refusal:
            return Refused(topic=event.topic, refusal=refusal, retained=event.retained)
        except TopicError:
            return event  # of no use to anybody, who will say so
        return Received(event.topic, message, event.retained)

    def qsize(self) -> int:
        return self._inner.qsize()

    def empty(self) -> bool:
        return self._inner.empty()
