"""A `Link` over MQTT: a bounded outgoing queue, events on a queue, one thread that keeps a connection up."""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnreachable,
    LinkClosed,
    LinkOverflow,
    PacketTooLarge,
)
from hedgerow_transport.event_queue import EventQueue
from hedgerow_transport.link import Connected, Disconnected, Received, Will, check_filter, check_topic
from hedgerow_transport.mqtt_connection import (
    Acknowledged,
    Arrived,
    Lost,
    MqttConnection,
    Subscribed,
    open_connection,
)
from hedgerow_transport.traffic import Traffic, publish_bytes

logger = logging.getLogger(__name__)

MAX_UNACKED = 8
# A QoS 1 message that was under way at this many lost connections is taken for their cause (above the
# broker's limit, say) and given up.
MAX_ATTEMPTS = 5
# A connection that held this long was a good one: the next wait starts short again.
STABLE_S = 10.0
# MQTT 3.1.1 has no word for "taken over", and Mosquitto 2.0.11 does not use that of MQTT 5. Two clients of
# one name then throw each other out for ever, and either sees only a broker that closes good connections.
MAX_SHORT_LIVED = 8
RECONNECT_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """Bounds and times of a link.

    ``max_packet_bytes`` is for brokers that do not tell their own limit; ``max_queued_bytes`` bounds what
    waits to go out, ``max_event_bytes`` what waits to be read (beyond it the socket is left unread). The wait
    before the n-th attempt to reconnect is random in the upper half of ``min_backoff_s * 2**n``, at most
    ``max_backoff_s``.
    """

    max_packet_bytes: int | None = None
    max_queued_bytes: int = 32 << 20
    max_event_bytes: int = 64 << 20
    keepalive_s: int = 30
    min_backoff_s: float = 0.5
    max_backoff_s: float = 60.0


@dataclass(slots=True)
class _Outgoing:
    topic: str
    payload: bytes
    retain: bool
    qos: int
    packet_bytes: int
    attempts: int = 0


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
    will : Will, optional
        What the broker publishes when this client vanishes.
    limits : LinkLimits
        Bounds and times.

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
        will: Will | None = None,
        limits: LinkLimits | None = None,
    ) -> None:
        self.url = BrokerUrl.parse(url)
        self.client_id = client_id
        self.events = EventQueue()
        self.traffic = Traffic()
        self._will = will
        self._limits = limits or LinkLimits()
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._filters = tuple(check_filter(wish) for wish in filters)
        self._orders: deque[tuple[bool, tuple[str, ...]]] = deque()
        self._queue: deque[_Outgoing] = deque()
        self._unacked: dict[int, _Outgoing] = {}
        self._queued_bytes = 0
        self._writing = False
        self._up = False
        self._closed = False
        self._graceful = True
        self._run: _Run | None = None
        self._broker_max_packet_bytes: int | None = None

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        with self._changed:
            return self._up

    @property
    def max_packet_bytes(self) -> int | None:
        """Largest packet that may be published, where known: the smaller of the broker's limit and ours."""
        known = [limit for limit in (self._limits.max_packet_bytes, self._broker_max_packet_bytes) if limit]
        return min(known, default=None)

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
        with self._changed:
            self._check_open()
            if self._run is not None and self._run.thread.is_alive():
                return
            run = self._run = _Run(self, timeout_s=timeout_s)
            run.thread.start()
            # The thread keeps to its time but for the look-up of a name, which cannot be interrupted.
            self._changed.wait_for(lambda: run.outcome is not None, timeout_s + 1.0)
            outcome = run.outcome
            if outcome is None:
                run.stop = True
                outcome = BrokerUnreachable(f"no answer from {self.url.place} within {timeout_s:g} s")
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
        message = _Outgoing(topic, bytes(payload), retain, qos, publish_bytes(topic, payload, qos))
        with self._changed:
            self._check_open()
            limit = self.max_packet_bytes
            if limit is not None and message.packet_bytes >= limit:  # MQTT 5 has a byte more than we count
                raise PacketTooLarge(topic=topic, packet_bytes=message.packet_bytes, max_packet_bytes=limit)
            if not self._up and qos == 0:
                return
            if self._queued_bytes + message.packet_bytes > self._limits.max_queued_bytes:
                raise LinkOverflow(
                    queued_bytes=self._queued_bytes, max_queued_bytes=self._limits.max_queued_bytes
                )
            self._queue.append(message)
            self._queued_bytes += message.packet_bytes
            self._wake()

    def subscribe(self, filters: Iterable[str]) -> None:
        """Add topic filters, now and at each connect to come."""
        added = tuple(check_filter(wish) for wish in filters)
        with self._changed:
            added = tuple(wish for wish in dict.fromkeys(added) if wish not in self._filters)
            self._filters += added
            self._order(added, wanted=True)

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Take topic filters away; messages under way may still come."""
        with self._changed:
            removed = tuple(wish for wish in dict.fromkeys(filters) if wish in self._filters)
            self._filters = tuple(wish for wish in self._filters if wish not in removed)
            self._order(removed, wanted=False)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued is out (QoS 1: acknowledged); say whether that was in time."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def close(self, *, graceful: bool = True) -> None:
        """Stop for good; twice does no harm.

        Parameters
        ----------
        graceful : bool
            True: what is queued goes out (for at most 2 s), then a farewell, so that the will is not
            published. False: cut the connection as a power failure would; the broker publishes the will.
        """
        with self._changed:
            self._closed = True
            self._graceful = graceful
            run = self._run
            if run is not None:
                run.stop = True
                self._wake()
                self._changed.notify_all()
        if run is not None and run.thread is not threading.current_thread():
            # A look-up of a name cannot be interrupted; the thread is a daemon and ends after it.
            run.thread.join(4.0)

    def _check_open(self) -> None:
        if self._closed:
            raise LinkClosed(f"the link of {self.client_id} is closed")

    def _is_idle(self) -> bool:
        return not self._queue and not self._unacked and not self._writing

    def _wake(self) -> None:
        if self._run is not None:
            self._run.wake()

    def _order(self, filters: tuple[str, ...], *, wanted: bool) -> None:
        if filters and self._up:
            self._orders.append((wanted, filters))
            self._wake()


class _Run:
    """The thread of a link, from `connect` to its end."""

    def __init__(self, link: MqttLink, *, timeout_s: float) -> None:
        self.stop = False
        self.outcome: BrokerError | bool | None = None
        self.thread = threading.Thread(target=self._main, name=f"link {link.client_id}", daemon=True)
        self._link = link
        self._limits = link._limits
        self._timeout_s = timeout_s
        self._protocols = link.url.protocols
        self._num_failures = 0
        self._num_short_lived = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def wake(self) -> None:
        """Make the thread look at its queues; the caller holds the link's lock."""
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._wake_writer.send(b"!")

    def _main(self) -> None:
        try:
            self._keep_up()
        except Exception:
            # The top of the thread: without this the link would be dead and nobody would know.
            logger.exception("the link of %s has failed", self._link.client_id)
            self._end("this program has failed; its log says how", fatal=True)
        finally:
            with self._link._changed:
                self._wake_reader.close()
                self._wake_writer.close()
                if self.outcome is None:
                    self.outcome = BrokerUnreachable(f"the link to {self._link.url.place} was closed")
                self._link._changed.notify_all()

    def _keep_up(self) -> None:
        while not self.stop:
            try:
                connection = open_connection(
                    self._link.url,
                    client_id=self._link.client_id,
                    will=self._link._will,
                    keepalive_s=self._limits.keepalive_s,
                    timeout_s=self._timeout_s,
                    protocols=self._protocols,
                )
            except BrokerError as error:
                if self.outcome is None:
                    self._settle(error)
                    return
                logger.info("%s: %s", self._link.client_id, error)
                # Not thrown out by another client: the broker itself is in trouble.
                self._num_short_lived = 0
            else:
                if not self._serve(connection):
                    return
            self._timeout_s = RECONNECT_TIMEOUT_S
            self._pause()

    def _settle(self, outcome: BrokerError | bool) -> None:
        with self._link._changed:
            self.outcome = outcome
            self._link._changed.notify_all()

    def _pause(self) -> None:
        # Full waits would let a whole fleet come back in step after the broker's restart.
        longest = min(self._limits.max_backoff_s, self._limits.min_backoff_s * 2**self._num_failures)
        self._num_failures = min(self._num_failures + 1, 16)
        with self._link._changed:
            self._link._changed.wait_for(lambda: self.stop, random.uniform(0.5, 1.0) * longest)

    def _serve(self, connection: MqttConnection) -> bool:
        """Run one connection to its end; say whether another one may follow."""
        # The version that worked comes first from now on.
        self._protocols = tuple(sorted(self._protocols, key=lambda version: version != connection.protocol))
        session = _Session(self._link, connection)
        started_at = time.monotonic()
        try:
            session.subscribe_all()
            self._loop(session)
            lost = session.lost
        except Exception:
            # A packet that paho cannot survive costs the connection, not the thread.
            logger.exception("%s: a packet could not be handled", self._link.client_id)
            lost = Lost("a packet from the broker could not be handled")
        finally:
            connection.abort()
        if lost is None:
            self._end("closed", fatal=False)
            return False
        stable = time.monotonic() - started_at >= STABLE_S
        return self._after_loss(lost, was_up=session.up, stable=stable)

    def _loop(self, session: _Session) -> None:
        farewell_at: float | None = None
        while session.lost is None:
            session.send_waiting()
            if self.stop:
                farewell_at = farewell_at or time.monotonic() + 2.0
                with self._link._changed:
                    done = self._link._is_idle() or time.monotonic() >= farewell_at
                    graceful = self._link._graceful
                if not graceful or not session.up or done:
                    if graceful:
                        session.connection.farewell()
                    return
            if session.up and self.outcome is None:
                self._settle(True)
            self._await(session, longest_s=0.05 if self.stop else 1.0)

    def _await(self, session: _Session, *, longest_s: float) -> None:
        connection = session.connection
        backed_up = self._link.events.num_bytes > self._limits.max_event_bytes
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        interest = (0 if backed_up else select.POLLIN) | (select.POLLOUT if connection.wants_write else 0)
        poller.register(connection.fileno(), interest)
        ready = dict(poller.poll(1000 * (0.05 if backed_up else longest_s)))
        if self._wake_reader.fileno() in ready:
            with contextlib.suppress(OSError):  # nothing there after all
                self._wake_reader.recv(65_536)
        flags = ready.get(connection.fileno(), 0)
        # A hang-up or an error comes unasked, and a read finds out what it is.
        session.service(readable=bool(flags & ~select.POLLOUT), writable=bool(flags & select.POLLOUT))

    def _after_loss(self, lost: Lost, *, was_up: bool, stable: bool) -> bool:
        if self.outcome is None:
            failure = BrokerRefused if lost.refused else BrokerUnreachable
            self._settle(failure(f"{self._link.url.place}: {lost.reason}"))
            return False
        self._num_failures = 0 if stable else self._num_failures
        self._num_short_lived = 0 if stable else self._num_short_lived + 1
        if lost.taken_over:
            self._end(lost.reason, fatal=True)
            return False
        if self._num_short_lived >= MAX_SHORT_LIVED:
            self._end(
                f"the broker closed {MAX_SHORT_LIVED} connections in a row within seconds: "
                "probably another client has the same name",
                fatal=True,
            )
            return False
        if was_up:
            self._end(lost.reason, fatal=False)
        return True

    def _end(self, reason: str, *, fatal: bool) -> None:
        link = self._link
        with link._changed:
            was_up, link._up = link._up, False
            link._writing = False
            link._orders.clear()
            again = [*link._unacked.values(), *link._queue]
            link._unacked.clear()
            kept = [message for message in again if message.qos and message.attempts < MAX_ATTEMPTS]
            link._queue = deque(kept)
            link._queued_bytes = sum(message.packet_bytes for message in kept)
            link._changed.notify_all()
        for message in again:
            if message.qos and message.attempts >= MAX_ATTEMPTS:
                logger.warning(
                    "a message for %s broke %d connections and is dropped", message.topic, MAX_ATTEMPTS
                )
        if was_up or fatal:
            link.events.put(Disconnected(reason, fatal))


class _Session:
    """A link's use of one connection."""

    def __init__(self, link: MqttLink, connection: MqttConnection) -> None:
        self.connection = connection
        self.up = False
        self.lost: Lost | None = None
        self._link = link
        self._window = max(1, min(MAX_UNACKED, connection.receive_maximum))
        self._early: list[Received] = []

    def subscribe_all(self) -> None:
        """Subscribe what the link wants; `up` follows from the broker's answer."""
        with self._link._changed:
            filters = self._link._filters
            self._link._broker_max_packet_bytes = self.connection.max_packet_bytes
        if filters:
            self.connection.subscribe(filters)
        else:
            self._come_up()

    def send_waiting(self) -> None:
        """Hand messages to the connection, as many as window and socket take."""
        link = self._link
        with link._changed:
            while self.up and link._orders:
                wanted, filters = link._orders.popleft()
                (self.connection.subscribe if wanted else self.connection.unsubscribe)(filters)
            while self.up and link._queue and not self.connection.wants_write and not self.connection.lost:
                if link._queue[0].qos and len(link._unacked) >= self._window:
                    break
                self._send(link._queue.popleft())
            link._writing = self.connection.wants_write
            if link._is_idle():
                link._changed.notify_all()

    def service(self, *, readable: bool, writable: bool) -> None:
        """Let the connection work, and act on what happened."""
        self.connection.service(readable=readable, writable=writable)
        happened, self.connection.happened = self.connection.happened, []
        for event in happened:
            if isinstance(event, Arrived):
                self._take(event)
            elif isinstance(event, Acknowledged):
                self._acknowledge(event)
            elif isinstance(event, Subscribed):
                self._judge(event)
            else:
                self.lost = self.lost or event

    def _send(self, message: _Outgoing) -> None:
        limit = self._link.max_packet_bytes
        if limit is not None and message.packet_bytes >= limit:
            # Queued while another broker, or none, was there.
            logger.warning("a message for %s is too large for this broker and is dropped", message.topic)
            self._link._queued_bytes -= message.packet_bytes
            return
        message.attempts += 1
        packet_id = self.connection.publish(
            message.topic, message.payload, retain=message.retain, qos=message.qos
        )
        self._link.traffic.count_sent(message.topic, message.payload, qos=message.qos)
        if message.qos:
            self._link._unacked[packet_id] = message
        else:
            self._link._queued_bytes -= message.packet_bytes

    def _take(self, event: Arrived) -> None:
        self._link.traffic.count_received(event.topic, event.payload, qos=event.qos)
        received = Received(event.topic, event.payload, event.retained)
        if self.up:
            self._link.events.put(received)
        else:
            # Retained messages may overtake the answer to SUBSCRIBE (MQTT 3.1.1, 3.8.4).
            self._early.append(received)

    def _acknowledge(self, event: Acknowledged) -> None:
        with self._link._changed:
            message = self._link._unacked.pop(event.packet_id, None)
            if message is not None:
                self._link._queued_bytes -= message.packet_bytes
        if message is not None and event.refusal:
            logger.warning("the broker does not want the message for %s: %s", message.topic, event.refusal)

    def _judge(self, event: Subscribed) -> None:
        if event.refusal and not self.up:
            reason = f"the broker does not let {self._link.client_id} subscribe ({event.refusal})"
            self.lost = Lost(reason, refused=True)
        elif event.refusal:
            logger.warning("%s: the broker refused a subscription (%s)", self._link.client_id, event.refusal)
        elif not self.up:
            self._come_up()

    def _come_up(self) -> None:
        self.up = True
        with self._link._changed:
            self._link._up = True
        self._link.events.put(Connected())
        for received in self._early:
            self._link.events.put(received)
        self._early.clear()
