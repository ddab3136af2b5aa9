"""Delivering an exported model as a pure state machine: an offer out, chunks on request, reports in."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hedgerow_coordinator.broadcast import Broadcast
from hedgerow_transport import (
    NAME_PATTERN,
    BlobStore,
    Delivery,
    DeliveryReport,
    MessageError,
    MessageRefused,
    Need,
    Presence,
    Publication,
    TopicError,
    Topics,
    decode_message,
)

# The profile entry of clients that know of deliveries.
ANSWERS = "deliveries"
# What is retained, births and earlier reports, has come after this time.
SETTLE_S = 2.0
# An offer is repeated as long as somebody has not answered: its report may have been lost on the way.
REPEAT_S = 15.0
MAX_DEVICES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """What is known of one device.

    Attributes
    ----------
    name : str
    online : bool
    answers : bool
        Whether it knows of deliveries; an older client does not.
    report : DeliveryReport or None
        Its last word on this delivery.
    problem : str
        Why what is said in its name is not believed.
    """

    name: str
    online: bool = False
    answers: bool = False
    report: DeliveryReport | None = None
    problem: str = ""

    @property
    def is_final(self) -> bool:
        """Whether it has said its last word."""
        return self.report is not None and self.report.is_final

    @property
    def state(self) -> str:
        """One word or two for a table."""
        if self.problem:
            return "not believed"
        if self.report is not None:
            return self.report.outcome
        if not self.online:
            return "away"
        return "waiting" if self.answers else "too old"


class Deliverer:
    """Offer one model to the devices of a namespace until all that are there have answered.

    Parameters
    ----------
    model
        The file.
    delivery
        The offer; its `model` names that file.
    topics
        The names of the namespace.
    wait_s
        Time for everything.
    known
        Names of devices that are listed even if they never come.
    max_bytes_per_s
        Rate of all chunks together; 0 for no limit.
    room
        Returns how many bytes the link should be given now.
    wall_clock
        Returns the Unix time.
    """

    def __init__(
        self,
        model: bytes,
        delivery: Delivery,
        *,
        topics: Topics,
        wait_s: float,
        known: Iterable[str] = (),
        max_bytes_per_s: float = 0.0,
        room: Callable[[], float] = lambda: math.inf,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.delivery = delivery
        self._topics = topics
        self._wait_s = wait_s
        self._wall_clock = wall_clock
        self._broadcast = Broadcast(
            BlobStore(),
            topics=topics,
            chunk_bytes=delivery.chunk_bytes,
            max_bytes_per_s=max_bytes_per_s,
            room=room,
            resumes=True,
        )
        ref = self._broadcast.add("export", model)
        if ref != delivery.model:
            raise ValueError(f"the offer is of {delivery.model}, the file is {ref}")
        self._rows = {name: DeliveryRow(name=name) for name in known if delivery.is_for(name)}
        self._seen: set[str] = set()
        self._outbox: list[Publication] = []
        self._settled_at = self._end_at = math.inf
        self._repeat_at = math.inf
        self._settled = False
        self.garbage = 0
        self.displaced = False

    @property
    def rows(self) -> tuple[DeliveryRow, ...]:
        """What is known, by name."""
        return tuple(self._rows[name] for name in sorted(self._rows))

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        times = [self._broadcast.wake_at, self._settled_at, self._end_at, self._repeat_at]
        return min((at for at in times if at is not None and at < math.inf), default=None)

    def take_publications(self) -> list[Publication]:
        """Return what waits to be published, and forget it."""
        taken, self._outbox = self._outbox, []
        return taken

    def start(self, now: float) -> None:
        """Make the offer."""
        self._settled_at, self._end_at = now + SETTLE_S, now + self._wait_s
        self._offer(now)

    def connected(self, now: float) -> None:
        """Make the offer again: the will may have withdrawn it."""
        if self._end_at < math.inf:
            self._offer(now)

    def closing(self) -> Publication:
        """Return the word that nobody sends the file any more; also the last will."""
        return self._publication(replace(self.delivery, open=False))

    def done(self, now: float) -> bool:
        """Say whether everybody who is or was there has answered, or time is up."""
        if now >= self._end_at or self.displaced:
            return True
        waited = [self._rows[name] for name in self._seen if self._rows[name].answers]
        # Somebody may have answered an earlier call, and be away.
        answered = any(row.is_final for row in self._rows.values())
        return self._settled and answered and all(row.is_final for row in waited)

    def handle(self, topic: str, payload: bytes, *, now: float, retained: bool = False) -> None:
        """Take one message; garbage is counted, and has no other effect."""
        try:
            parsed = self._topics.parse(topic)
            client = parsed.client
            if parsed.kind == "need":
                self._broadcast.need(decode_message(payload, Need), now=now)
            elif parsed.kind == "delivery" and payload and not retained:
                self._on_delivery(decode_message(payload, Delivery), now)
            elif client is None or not self.delivery.is_for(client):
                return
            elif parsed.kind == "presence":
                self._on_presence(client, payload)
            elif parsed.kind == "report" and payload:
                self._on_report(client, decode_message(payload, DeliveryReport))
        except (MessageError, TopicError):
            self.garbage += 1

    def refuse(self, refusal: MessageRefused) -> None:
        """Note that what is said in a device's name is not believed."""
        sender = refusal.sender
        if re.fullmatch(NAME_PATTERN, sender) is None or not self.delivery.is_for(sender):
            return  # an offer that is not signed, say
        row = self._row(sender)
        if row is not None and row.report is None and not row.online:
            self._rows[sender] = DeliveryRow(name=sender, problem=str(refusal))

    def tick(self, now: float) -> None:
        """Let time pass: send chunks that are due, repeat the offer where somebody is silent."""
        if now >= self._settled_at:
            self._settled, self._settled_at = True, math.inf
        self._outbox += self._broadcast.tick(now)
        if now >= self._repeat_at:
            if any(row.online and row.answers and not row.is_final for row in self._rows.values()):
                self._offer(now)
            self._repeat_at = now + REPEAT_S

    def _offer(self, now: float) -> None:
        self._repeat_at = now + REPEAT_S
        self._outbox.append(self._publication(self.delivery))

    def _publication(self, delivery: Delivery) -> Publication:
        return Publication(topic=self._topics.delivery, payload=delivery.encode(), retain=True, qos=1)

    def _on_delivery(self, delivery: Delivery, now: float) -> None:
        """Somebody offers something: our own words, those of an earlier call that ends now, or another's."""
        if delivery == self.delivery or self._end_at == math.inf:
            return
        if delivery.key == self.delivery.key and not delivery.open:
            self._offer(now)
        elif delivery.open and delivery.key != self.delivery.key:
            self.displaced = True

    def _on_presence(self, client: str, payload: bytes) -> None:
        if not payload:
            return
        message = decode_message(payload, Presence)
        if message.client != client:
            raise MessageError(f"{client} speaks as {message.client}")
        row = self._row(client)
        if row is None:
            return
        answers = isinstance(message.profile.get(ANSWERS), int) if message.online else row.answers
        self._rows[client] = replace(row, online=message.online, answers=answers, problem="")
        if message.online:
            self._seen.add(client)

    def _on_report(self, client: str, report: DeliveryReport) -> None:
        row = self._row(client)
        if row is None or report.key != self.delivery.key:
            return
        if row.report is not None and row.report.is_final and not report.is_final:
            return  # an older word that has come late
        self._rows[client] = replace(row, report=report, answers=True, problem="")

    def _row(self, client: str) -> DeliveryRow | None:
        if client not in self._rows and len(self._rows) >= MAX_DEVICES:
            return None
        return self._rows.get(client, DeliveryRow(name=client))
