"""The thread of a link: connect, serve, wait, connect again."""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time

from hedgerow_transport.errors import BrokerError, BrokerRefused, BrokerUnreachable
from hedgerow_transport.link import Disconnected
from hedgerow_transport.link_state import LinkState
from hedgerow_transport.mqtt_connection import Lost, MqttConnection, open_connection
from hedgerow_transport.session import Session

logger = logging.getLogger(__name__)

# A connection that held this long was a good one: the next wait starts short again.
STABLE_S = 10.0
# MQTT 3.1.1 has no word for "taken over", and Mosquitto 2.0.11 does not use that of MQTT 5. Two clients of
# one name then throw each other out for ever, and either sees only a broker that closes good connections.
MAX_SHORT_LIVED = 8
RECONNECT_TIMEOUT_S = 15.0


class LinkThread:
    """The thread of a link, from `connect` to its end."""

    def __init__(self, state: LinkState, *, timeout_s: float) -> None:
        self.stop = False
        self.outcome: BrokerError | bool | None = None
        self.thread = threading.Thread(target=self._main, name=f"link {state.client_id}", daemon=True)
        self._state = state
        self._timeout_s = timeout_s
        self._protocols = state.url.protocols
        self._num_failures = 0
        self._num_short_lived = 0
        self._refusal = ""
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
            logger.exception("the link of %s has failed", self._state.client_id)
            self._end("this program has failed; its log says how", fatal=True)
        finally:
            with self._state.changed:
                self._wake_reader.close()
                self._wake_writer.close()
                if self.outcome is None:
                    self.outcome = BrokerUnreachable(f"the link to {self._state.url.place} was closed")
                self._state.changed.notify_all()

    def _keep_up(self) -> None:
        while not self.stop:
            try:
                connection = open_connection(
                    self._state.url,
                    client_id=self._state.client_id,
                    will=self._state.make_will(),
                    keepalive_s=self._state.limits.keepalive_s,
                    timeout_s=self._timeout_s,
                    protocols=self._protocols,
                )
            except BrokerError as error:
                if self.outcome is None:
                    self._settle(error)
                    return
                logger.info("%s: %s", self._state.client_id, error)
                if isinstance(error, BrokerRefused) and str(error) != self._refusal:
                    # Said once: a broker that says no may go on saying it for weeks.
                    self._refusal = str(error)
                    self._state.events.put(Disconnected(self._refusal))
                # Not thrown out by another client: the broker itself is in trouble.
                self._num_short_lived = 0
            else:
                if self.stop:  # nobody waits for it any more
                    connection.farewell()
                    return
                if not self._serve(connection):
                    return
            self._timeout_s = RECONNECT_TIMEOUT_S
            self._pause()

    def _settle(self, outcome: BrokerError | bool) -> None:
        with self._state.changed:
            self.outcome = outcome
            self._state.changed.notify_all()

    def _pause(self) -> None:
        # Full waits would let a whole fleet come back in step after the broker's restart.
        limits = self._state.limits
        longest = min(limits.max_backoff_s, limits.min_backoff_s * 2**self._num_failures)
        self._num_failures = min(self._num_failures + 1, 16)
        with self._state.changed:
            self._state.changed.wait_for(lambda: self.stop, random.uniform(0.5, 1.0) * longest)

    def _serve(self, connection: MqttConnection) -> bool:
        """Run one connection to its end; say whether another one may follow."""
        # The version that worked comes first from now on.
        self._protocols = tuple(sorted(self._protocols, key=lambda version: version != connection.protocol))
        session = Session(self._state, connection)
        started_at = time.monotonic()
        try:
            self._state.fileno = connection.fileno()
            session.subscribe_all()
            self._loop(session)
            lost = session.lost
        except Exception:
            # A packet that paho cannot survive costs the connection, not the thread.
            logger.exception("%s: a packet could not be handled", self._state.client_id)
            lost = Lost("a packet from the broker could not be handled")
        finally:
            self._state.fileno = -1
            connection.abort()
        if lost is None:
            self._end("closed", fatal=False)
            return False
        stable = time.monotonic() - started_at >= STABLE_S
        return self._after_loss(lost, was_up=session.up, stable=stable)

    def _loop(self, session: Session) -> None:
        farewell_at: float | None = None
        while session.lost is None:
            session.send_waiting()
            if self.stop:
                farewell_at = farewell_at or time.monotonic() + 2.0
                with self._state.changed:
                    done = self._state.is_idle or time.monotonic() >= farewell_at
                    graceful = self._state.graceful
                if not graceful or not session.up or done:
                    if graceful:
                        session.connection.farewell()
                    return
            if session.up and self.outcome is None:
                self._settle(True)
            self._await(session, longest_s=0.05 if self.stop else 1.0)

    def _await(self, session: Session, *, longest_s: float) -> None:
        connection = session.connection
        if connection.lost:  # found out while writing
            session.service(readable=False, writable=False)
            return
        backed_up = self._state.events.num_bytes > self._state.limits.max_event_bytes
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        interest = (0 if backed_up else select.POLLIN) | (select.POLLOUT if connection.wants_write else 0)
        poller.register(connection.fileno(), interest)
        ready = dict(poller.poll(1000 * (0.05 if backed_up else longest_s)))
        if self._wake_reader.fileno() in ready:
            with contextlib.suppress(OSError):  # nothing there after all
                self._wake_reader.recv(65_536)
        flags = ready.get(connection.fileno(), 0)
        if flags & select.POLLIN:
            self._state.heard_at = time.monotonic()
        # A hang-up or an error comes unasked, and a read finds out what it is.
        session.service(readable=bool(flags & ~select.POLLOUT), writable=bool(flags & select.POLLOUT))

    def _after_loss(self, lost: Lost, *, was_up: bool, stable: bool) -> bool:
        if self.outcome is None:
            failure = BrokerRefused if lost.refused else BrokerUnreachable
            self._settle(failure(f"{self._state.url.place}: {lost.reason}"))
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
        state = self._state
        with state.changed:
            was_up, state.up = state.up, False
            state.writing = False
            state.outbox.rewind()
            state.changed.notify_all()
        if was_up or fatal:
            state.events.put(Disconnected(reason, fatal))
