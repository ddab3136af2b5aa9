"""An in-memory broker whose deliveries get lost, come twice, out of order and late, by seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hedgerow_transport import MemoryHub, MemoryLink, Received


@dataclass(slots=True)
class _Late:
    """A delivery on its way, and after how many further deliveries it arrives."""

    link: MemoryLink
    event: Received
    left: int = field(compare=False)


class FaultyHub(MemoryHub):
    """A `MemoryHub` with faults, QoS 1 included: what a broker that is killed now and then does to messages.

    Parameters
    ----------
    seed : int
        Of everything random here.
    drop, duplicate, delay : float
        Shares of deliveries in [0, 1): lost, made twice, or held back while up to `reorder` others overtake.
    reorder : int
        From 1.

    Attributes
    ----------
    num_dropped, num_duplicated, num_delayed : int
        What has happened so far.
    """

    def __init__(
        self,
        *,
        seed: int,
        drop: float = 0.0,
        duplicate: float = 0.0,
        delay: float = 0.0,
        reorder: int = 8,
    ) -> None:
        for name, share in (("drop", drop), ("duplicate", duplicate), ("delay", delay)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), not {share}")
        if reorder < 1:
            raise ValueError(f"reorder must be 1 or more, not {reorder}")
        self.num_dropped = self.num_duplicated = self.num_delayed = 0
        self._random = random.Random(seed)
        self._delay = delay
        self._reorder = reorder
        self._late: list[_Late] = []
        self._shares = (drop, duplicate)
        super().__init__(drop=self._loses, duplicate=self._doubles)

    def _loses(self, *_: object) -> bool:
        lost = self._random.random() < self._shares[0]
        self.num_dropped += lost
        return lost

    def _doubles(self, *_: object) -> bool:
        twice = self._random.random() < self._shares[1]
        self.num_duplicated += twice
        return twice

    def _deliver(self, link: MemoryLink, topic: str, payload: bytes, *, qos: int, retained: bool) -> None:
        due = [late for late in self._late if late.left <= 0]
        self._late = [late for late in self._late if late.left > 0]
        for late in self._late:
            late.left -= 1
        if self._random.random() < self._delay:
            self.num_delayed += 1
            left = self._random.randint(1, self._reorder)
            self._late.append(_Late(link, Received(topic, payload, retained), left))
        else:
            super()._deliver(link, topic, payload, qos=qos, retained=retained)
        for late in due:
            if late.link.connected:
                late.link.traffic.count_received(late.event.topic, late.event.payload, qos=0)
                late.link.events.put(late.event)
