"""What a link and its thread share; `changed` guards all that changes."""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.event_queue import EventQueue
from hedgerow_transport.link import WillMaker
from hedgerow_transport.outbox import Outbox
from hedgerow_transport.traffic import Traffic


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


@dataclass(slots=True, kw_only=True)
class LinkState:
    """The settings of a link, and where it stands.

    ``orders`` are subscriptions to make (True) or to end since the filters were last sent as a whole;
    ``writing`` says that the connection has bytes which the socket did not take yet.
    """

    url: BrokerUrl
    client_id: str
    make_will: WillMaker
    limits: LinkLimits
    outbox: Outbox
    filters: tuple[str, ...]
    wants: Callable[[str], bool] = lambda _: True
    events: EventQueue = field(default_factory=EventQueue)
    traffic: Traffic = field(default_factory=Traffic)
    changed: threading.Condition = field(default_factory=threading.Condition)
    orders: deque[tuple[bool, tuple[str, ...]]] = field(default_factory=deque)
    writing: bool = False
    up: bool = False
    closed: bool = False
    graceful: bool = True
    broker_max_packet_bytes: int | None = None
    heard_at: float = 0.0
    fileno: int = -1

    def has_unread(self) -> bool:
        """Say whether bytes wait in the connection's socket; any thread may ask."""
        if self.fileno < 0:
            return False
        poller = select.poll()
        poller.register(self.fileno, select.POLLIN)
        return any(flags & select.POLLIN for _, flags in poller.poll(0))

    @property
    def is_idle(self) -> bool:
        """Whether all that was queued is out, and acknowledged where that was asked."""
        return self.outbox.is_empty and not self.writing

    @property
    def max_packet_bytes(self) -> int | None:
        """Largest packet that may be published, where known: the smaller of the broker's limit and ours."""
        known = [limit for limit in (self.limits.max_packet_bytes, self.broker_max_packet_bytes) if limit]
        return min(known, default=None)
