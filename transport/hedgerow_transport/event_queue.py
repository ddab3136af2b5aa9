"""The queue between a link's thread and its reader; it knows how many bytes wait in it."""

from __future__ import annotations

import queue
from typing import Any

from hedgerow_transport.link import LinkEvent, Received


class EventQueue(queue.Queue[LinkEvent]):
    """A `queue.Queue` of link events with the sum of the payloads in it.

    A link stops reading its socket while a slow reader has too much waiting, so that the excess stays with
    the broker, whose limits then decide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    # queue.Queue calls both with its lock held; it names them as the places to override.
    def _put(self, item: Any) -> None:
        super()._put(item)
        self.num_bytes += _num_bytes(item)

    def _get(self) -> Any:
        item = super()._get()
        self.num_bytes -= _num_bytes(item)
        return item


def _num_bytes(event: LinkEvent) -> int:
    # The event itself costs some 200 bytes.
    return 256 + len(event.payload) if isinstance(event, Received) else 256
