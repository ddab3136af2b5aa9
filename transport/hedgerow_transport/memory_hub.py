"""A broker in memory for tests and simulation: one thread, no sockets, always the same order."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable

from hedgerow_transport.errors import LinkClosed
from hedgerow_transport.link import (
    Connected,
    Disconnected,
    LinkEvent,
    Received,
    Will,
    check_filter,
    check_topic,
    matches,
)
from hedgerow_transport.traffic import Traffic

DeliveryFault = Callable[[str, bytes, str], bool]


class MemoryHub:
    """Deliver at once and in order: subscribers get a message in the order in which they connected.

    Parameters
    ----------
    drop : callable, optional
        ``drop(topic, payload, receiver)`` says whether this delivery is lost on the way; `receiver` is a
        client id. Retained messages are kept all the same.
    duplicate : callable, optional
        Same arguments; says whether this delivery comes twice.
    """

    def __init__(self, *, drop: DeliveryFault | None = None, duplicate: DeliveryFault | None = None) -> None:
        self._drop = drop
        self._duplicate = duplicate
        self._links: dict[str, MemoryLink] = {}
        self._retained: dict[str, tuple[bytes, int]] = {}

    def connect(self, client_id: str, filters: Iterable[str] = (), will: Will | None = None) -> MemoryLink:
        """Return a link that is up; one of the same name is taken over, and its will is published."""
        link = MemoryLink(self, client_id=client_id, filters=filters, will=will)
        self._attach(link)
        return link

    def retained(self, topic: str) -> bytes | None:
        """Return the retained payload of a topic, or None when there is none."""
        entry = self._retained.get(topic)
        return None if entry is None else entry[0]

    def _attach(self, link: MemoryLink) -> None:
        earlier = self._links.get(link.client_id)
        if earlier is not None:
            self._cut(earlier, reason="another client with the same name has connected", fatal=True)
        self._links[link.client_id] = link
        link._up = True
        link.events.put(Connected())
        self._send_retained(link, link.filters)

    def _cut(self, link: MemoryLink, *, reason: str, fatal: bool = False, will: bool = True) -> None:
        del self._links[link.client_id]
        link._up = False
        link.events.put(Disconnected(reason, fatal))
        if will and link.will is not None:
            self._route(link.will.topic, link.will.payload, retain=link.will.retain, qos=1)

    def _send_retained(self, link: MemoryLink, filters: Iterable[str]) -> None:
        wanted = tuple(filters)
        for topic in sorted(self._retained):
            if any(matches(wish, topic) for wish in wanted):
                payload, qos = self._retained[topic]
                self._deliver(link, topic, payload, qos=qos, retained=True)

    def _route(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        if retain and payload:
            self._retained[topic] = (payload, qos)
        elif retain:
            self._retained.pop(topic, None)
        for link in tuple(self._links.values()):
            if any(matches(wish, topic) for wish in link.filters):
                self._deliver(link, topic, payload, qos=qos, retained=False)

    def _deliver(self, link: MemoryLink, topic: str, payload: bytes, *, qos: int, retained: bool) -> None:
        # Like a real broker, the hub repeats QoS 1 over a lossy link; what is lost are QoS 0 packets and, by
        # the caller's wish, whatever else it names.
        if self._drop is not None and self._drop(topic, payload, link.client_id):
            return
        twice = self._duplicate is not None and self._duplicate(topic, payload, link.client_id)
        for _ in range(2 if twice else 1):
            link.traffic.count_received(topic, payload, qos=qos)
            link.events.put(Received(topic, payload, retained))


class MemoryLink:
    """A `Link` to a `MemoryHub`.

    Attributes
    ----------
    events : queue.Queue
        What happened, in order.
    traffic : Traffic
        Bytes as they would be over MQTT 3.1.1.
    """

    def __init__(self, hub: MemoryHub, *, client_id: str, filters: Iterable[str], will: Will | None) -> None:
        self.client_id = client_id
        self.filters = tuple(check_filter(wish) for wish in filters)
        self.will = will
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.traffic = Traffic()
        self._hub = hub
        self._up = False
        self._closed = False
        self._waiting: list[tuple[str, bytes, bool]] = []

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        return self._up

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 0) -> None:
        """Deliver a message at once; while the link is down, QoS 0 is dropped and QoS 1 waits."""
        check_topic(topic)
        if self._closed:
            raise LinkClosed(f"the link of {self.client_id} is closed")
        if self._up:
            self.traffic.count_sent(topic, payload, qos=qos)
            self._hub._route(topic, bytes(payload), retain=retain, qos=qos)
        elif qos:
            self._waiting.append((topic, bytes(payload), retain))

    def subscribe(self, filters: Iterable[str]) -> None:
        """Add topic filters; retained messages that they select come at once."""
        added = tuple(check_filter(wish) for wish in filters)
        self.filters += tuple(wish for wish in added if wish not in self.filters)
        if self._up:
            self._hub._send_retained(self, added)

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Take topic filters away."""
        removed = set(filters)
        self.filters = tuple(wish for wish in self.filters if wish not in removed)

    def flush(self, timeout_s: float = 0.0) -> bool:  # noqa: ARG002 -- the protocol has it
        """Say whether nothing waits; there is nothing to wait for."""
        return not self._waiting

    def close(self, *, graceful: bool = True) -> None:
        """Leave with a farewell, or without: then the will is published."""
        if self._up:
            self._hub._cut(self, reason="closed", will=not graceful)
        self._closed = True

    def drop(self, reason: str = "the network is gone") -> None:
        """Lose the connection without a farewell: the will is published."""
        if self._up:
            self._hub._cut(self, reason=reason)

    def reconnect(self) -> None:
        """Come back after `drop`: a `Connected` event, retained messages again, then what waited goes out."""
        if self._closed:
            raise LinkClosed(f"the link of {self.client_id} is closed")
        if not self._up:
            self._hub._attach(self)
            waiting, self._waiting = self._waiting, []
            for topic, payload, retain in waiting:
                self.publish(topic, payload, retain=retain, qos=1)
