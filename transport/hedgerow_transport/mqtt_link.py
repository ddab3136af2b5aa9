"""A `Link` over MQTT: a bounded outgoing queue, events on a queue, one thread that keeps a connection up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.errors import BrokerError, BrokerUnreachable, LinkClosed, PacketTooLarge
from hedgerow_transport.link import Will, WillMaker, check_filter, check_topic
from hedgerow_transport.link_state import LinkLimits, LinkState
from hedgerow_transport.link_thread import LinkThread
from hedgerow_transport.outbox import Outbox, Outgoing


class MqttLink:
    """A link to an MQTT broker, 5 or else 3.1.1; call `connect` to bring it up.

    Parameters
    ----------
    url : str
        ``mqtt://user:password@host:port``, or ``mqtts://`` with the system's CAs or ``?cafile=...``.
    client_id : str
        Name at the broker; a second client of the same name throws the first one out.
    filters : iterable of str
        Topic filters, subscribed at each connect at QoS 1.
    will : Will or callable, optional
        What the broker publishes when this client vanishes. A callable is asked at each connect, by the
        link's thread; it must not raise.
    limits : LinkLimits
        Bounds and times.
    wants : callable, optional
        Says by its topic whether a message is wanted; the others are dropped as they come in, so that a flood
        does not fill the queue. It is called by the link's thread, and must be quick and not raise.

    Raises
    ------
    BrokerUrlError
        When the URL cannot be understood.
    TopicError
        When a filter is wrong.

    Attributes
    ----------
    events : EventQueue
        `Connected`, `Disconnected` and `Received`, in order.
    traffic : Traffic
        Bytes of PUBLISH packets both ways.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        filters: Iterable[str] = (),
        will: Will | WillMaker | None = None,
        limits: LinkLimits | None = None,
        wants: Callable[[str], bool] = lambda _: True,
    ) -> None:
        bounds = limits or LinkLimits()
        self._state = LinkState(
            url=BrokerUrl.parse(url),
            client_id=client_id,
            make_will=will if callable(will) else lambda: will,
            limits=bounds,
            wants=wants,
            outbox=Outbox(max_bytes=bounds.max_queued_bytes),
            filters=tuple(check_filter(wish) for wish in filters),
        )
        self.client_id = client_id
        self.events = self._state.events
        self.traffic = self._state.traffic
        self._thread: LinkThread | None = None

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        with self._state.changed:
            return self._state.up

    @property
    def max_packet_bytes(self) -> int | None:
        """Largest packet that may be published, where known: the smaller of the broker's limit and ours."""
        return self._state.max_packet_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to go out, or (QoS 1) for the broker's acknowledgement."""
        with self._state.changed:
            return self._state.outbox.num_bytes

    @property
    def heard_at(self) -> float:
        """When bytes last came in, also those of a packet that is not yet whole, by `time.monotonic`.

        What waits to be read, in the queue of events or in the socket, has come in now: a reader that is late
        must not take that for a silence.
        """
        if not self.events.empty() or self._state.has_unread():
            return time.monotonic()
        return self._state.heard_at

    def connect(self, timeout_s: float = 10.0) -> None:
        """Bring the link up; from then on it comes back by itself. After a failure it can be called again.

        Raises
        ------
        BrokerUnreachable
            When nothing that speaks MQTT answers within `timeout_s` seconds.
        BrokerRefused
            When the broker says no.
        LinkClosed
            After `close`.
        """
        with self._state.changed:
            self._check_open()
            if self._thread is not None and self._thread.thread.is_alive() and not self._thread.stop:
                return
            run = self._thread = LinkThread(self._state, timeout_s=timeout_s)
            run.thread.start()
            # The thread keeps to its time but for the look-up of a name, which cannot be interrupted.
            self._state.changed.wait_for(lambda: run.outcome is not None, timeout_s + 1.0)
            outcome = run.outcome
            if outcome is None:
                run.stop = True
                outcome = BrokerUnreachable(f"no answer from {self._state.url.place} within {timeout_s:g} s")
        if isinstance(outcome, BrokerError):
            raise outcome

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 0) -> None:
        """Queue a message and return at once; any thread may. While the link is down, QoS 0 is dropped.

        Raises
        ------
        LinkOverflow
            When too many bytes wait already.
        PacketTooLarge
            When the broker is known to refuse packets of this size.
        LinkClosed
            After `close`.
        TopicError
            When the topic cannot be published to.
        """
        check_topic(topic)
        if qos not in (0, 1):
            raise ValueError(f"qos {qos}: use 0 or 1")
        message = Outgoing(topic, bytes(payload), retain, qos)
        with self._state.changed:
            self._check_open()
            limit = self.max_packet_bytes
            if limit is not None and message.packet_bytes >= limit:  # MQTT 5 has a byte more than we count
                raise PacketTooLarge(topic=topic, packet_bytes=message.packet_bytes, max_packet_bytes=limit)
            if not self._state.up and qos == 0:
                return
            self._state.outbox.put(message)
            self._wake()

    def subscribe(self, filters: Iterable[str]) -> None:
        """Add topic filters, now and at each connect to come."""
        added = tuple(check_filter(wish) for wish in filters)
        with self._state.changed:
            added = tuple(wish for wish in dict.fromkeys(added) if wish not in self._state.filters)
            self._state.filters += added
            self._order(added, wanted=True)

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Take topic filters away; messages under way may still come."""
        with self._state.changed:
            removed = tuple(wish for wish in dict.fromkeys(filters) if wish in self._state.filters)
            self._state.filters = tuple(wish for wish in self._state.filters if wish not in removed)
            self._order(removed, wanted=False)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued is out (QoS 1: acknowledged); say whether that was in time."""
        with self._state.changed:
            return self._state.changed.wait_for(lambda: self._state.is_idle, timeout_s)

    def close(self, *, graceful: bool = True) -> None:
        """Stop for good; twice does no harm.

        Parameters
        ----------
        graceful : bool
            True: what is queued goes out (for at most 2 s), then a farewell, so that the will is not
            published. False: cut the connection as a power failure would; the broker publishes the will.
        """
        with self._state.changed:
            self._state.closed = True
            self._state.graceful = graceful
            run = self._thread
            if run is not None:
                run.stop = True
                self._wake()
                self._state.changed.notify_all()
        if run is not None and run.thread is not threading.current_thread():
            # A look-up of a name cannot be interrupted; the thread is a daemon and ends after it.
            run.thread.join(5.0)

    def _check_open(self) -> None:
        if self._state.closed:
            raise LinkClosed(f"the link of {self.client_id} is closed")

    def _wake(self) -> None:
        if self._thread is not None:
            self._thread.wake()

    def _order(self, filters: tuple[str, ...], *, wanted: bool) -> None:
        # Also while a connection is being made: it may have read the filters before this.
        if filters:
            self._state.orders.append((wanted, filters))
            self._wake()
