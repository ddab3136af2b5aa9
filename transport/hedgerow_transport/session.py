"""A link's use of one connection: subscribe, send what waits, pass on what comes."""

from __future__ import annotations

import logging

from hedgerow_transport.link import Connected, Received
from hedgerow_transport.link_state import LinkState
from hedgerow_transport.mqtt_connection import Acknowledged, Arrived, Lost, MqttConnection, Subscribed
from hedgerow_transport.outbox import Outgoing

logger = logging.getLogger(__name__)

MAX_UNACKED = 8


class Session:
    """A link's use of one connection."""

    def __init__(self, state: LinkState, connection: MqttConnection) -> None:
        self.connection = connection
        self.up = False
        self.lost: Lost | None = None
        self._state = state
        self._window = max(1, min(MAX_UNACKED, connection.receive_maximum))
        self._early: list[Received] = []

    def subscribe_all(self) -> None:
        """Subscribe what the link wants; `up` follows from the broker's answer."""
        with self._state.changed:
            filters = self._state.filters
            self._state.orders.clear()
            self._state.broker_max_packet_bytes = self.connection.max_packet_bytes
        if filters:
            self.connection.subscribe(filters)
        else:
            self._come_up()

    def send_waiting(self) -> None:
        """Hand messages to the connection, as many as window and socket take."""
        state = self._state
        with state.changed:
            while self.up and state.orders:
                wanted, filters = state.orders.popleft()
                (self.connection.subscribe if wanted else self.connection.unsubscribe)(filters)
            while self.up and not self.connection.wants_write and not self.connection.lost:
                message = state.outbox.take(window=self._window)
                if message is None:
                    break
                self._send(message)
            state.writing = self.connection.wants_write
            if state.is_idle:
                state.changed.notify_all()

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

    def _send(self, message: Outgoing) -> None:
        limit = self._state.max_packet_bytes
        if limit is not None and message.packet_bytes >= limit:
            # Queued while another broker, or none, was there.
            logger.warning("a message for %s is too large for this broker and is dropped", message.topic)
            self._state.outbox.forget(message)
            return
        packet_id = self.connection.publish(
            message.topic, message.payload, retain=message.retain, qos=message.qos
        )
        self._state.traffic.count_sent(message.topic, message.payload, qos=message.qos)
        self._state.outbox.sent(message, packet_id)

    def _take(self, event: Arrived) -> None:
        self._state.traffic.count_received(event.topic, event.payload, qos=event.qos)
        if not self._state.wants(event.topic):
            return
        received = Received(event.topic, event.payload, event.retained)
        if self.up:
            self._state.events.put(received)
        else:
            # Retained messages may overtake the answer to SUBSCRIBE (MQTT 3.1.1, 3.8.4).
            self._early.append(received)

    def _acknowledge(self, event: Acknowledged) -> None:
        with self._state.changed:
            message = self._state.outbox.acknowledge(event.packet_id)
        if message is not None and event.refusal:
            logger.warning("the broker does not want the message for %s: %s", message.topic, event.refusal)

    def _judge(self, event: Subscribed) -> None:
        if event.refusal and not self.up:
            reason = f"the broker does not let {self._state.client_id} subscribe ({event.refusal})"
            self.lost = Lost(reason, refused=True)
        elif event.refusal:
            logger.warning("%s: the broker refused a subscription (%s)", self._state.client_id, event.refusal)
        elif not self.up:
            self._come_up()

    def _come_up(self) -> None:
        self.up = True
        with self._state.changed:
            self._state.up = True
        self._state.events.put(Connected())
        for received in self._early:
            self._state.events.put(received)
        self._early.clear()
