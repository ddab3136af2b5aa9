"""What waits to go out over a link and what is under way: bounded in bytes. Its owner does the locking."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from hedgerow_transport.errors import LinkOverflow
from hedgerow_transport.traffic import publish_bytes

logger = logging.getLogger(__name__)

# A QoS 1 message that was the oldest under way at this many lost connections is taken for their cause (above
# a limit that the broker did not tell, say) and given up.
MAX_LOSSES = 5


@dataclass(slots=True)
class Outgoing:
    """A message on its way, and how many connections were lost while it was the oldest under way."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    losses: int = 0

    @property
    def packet_bytes(self) -> int:
        """Length of its PUBLISH packet."""
        return publish_bytes(self.topic, self.payload, self.qos)


class Outbox:
    """A queue of messages, and a window of those that the broker has not acknowledged.

    Parameters
    ----------
    max_bytes : int
        Bound of the packets in both together.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._queue: deque[Outgoing] = deque()
        self._unacked: dict[int, Outgoing] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is unacknowledged."""
        return not self._queue and not self._unacked

    @property
    def num_bytes(self) -> int:
        """Length of the packets that wait or are unacknowledged."""
        return self._num_bytes

    def put(self, message: Outgoing) -> None:
        """Queue a message.

        Raises
        ------
        LinkOverflow
            When it does not fit.
        """
        if self._num_bytes + message.packet_bytes > self._max_bytes:
            raise LinkOverflow(queued_bytes=self._num_bytes, max_queued_bytes=self._max_bytes)
        self._queue.append(message)
        self._num_bytes += message.packet_bytes

    def take(self, *, window: int) -> Outgoing | None:
        """Return the next message to hand over; None when there is none, or the window is full."""
        if not self._queue or (self._queue[0].qos and len(self._unacked) >= window):
            return None
        return self._queue.popleft()

    def sent(self, message: Outgoing, packet_id: int) -> None:
        """Note that a taken message was handed to a connection."""
        if message.qos:
            self._unacked[packet_id] = message
        else:
            self.forget(message)

    def forget(self, message: Outgoing) -> None:
        """Note that a taken message is done with."""
        self._num_bytes -= message.packet_bytes

    def acknowledge(self, packet_id: int) -> Outgoing | None:
        """Return the message that the broker has acknowledged; None for a packet that is not ours."""
        message = self._unacked.pop(packet_id, None)
        if message is not None:
            self.forget(message)
        return message

    def rewind(self) -> None:
        """Note that the connection is lost: QoS 0 is dropped, QoS 1 goes again, what was under way first."""
        for oldest in tuple(self._unacked.values())[:1]:
            # Brokers acknowledge in order: those behind it are not to blame.
            oldest.losses += 1
        again = [message for message in (*self._unacked.values(), *self._queue) if message.qos]
        self._unacked.clear()
        self._queue = deque(message for message in again if message.losses < MAX_LOSSES)
        self._num_bytes = sum(message.packet_bytes for message in self._queue)
        for message in again:
            if message.losses >= MAX_LOSSES:
                logger.warning("a message for %s broke %d links: dropped", message.topic, MAX_LOSSES)
