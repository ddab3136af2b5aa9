"""A whole federation over the in-memory link: the real coordinator and client sessions, a clock that jumps.

Messages are delivered in one fixed order and training results are handed in by client name, so a simulation
gives the same weights to the bit each time. Time passes only when nothing else can happen; training takes
none.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hedgerow.errors import HedgerowError
from hedgerow_codecs import Layout
from hedgerow_coordinator import Coordinator, flat_traffic
from hedgerow_edge_client import (
    Action,
    CancelTraining,
    ClientSession,
    Leave,
    MemoryState,
    StartTraining,
    TrainRequest,
    TrainResult,
)
from hedgerow_transport import Connected, MemoryHub, MemoryLink, Publication, Received, Topics, Will

# So often may the clock be looked at without moving before that is taken for a fault.
MAX_IDLE_LOOKS = 1000


class Trainers(Protocol):
    """Something that trains for many clients."""

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        """Train all of them; return, in the same order, a result or the reason why there is none."""
        ...


@dataclass(slots=True, kw_only=True)
class _Client:
    session: ClientSession
    link: MemoryLink
    memory: MemoryState
    wanted: TrainRequest | None = None
    gone: bool = False


class Simulation:
    """Run one coordinator and its clients until the run ends.

    Parameters
    ----------
    coordinator
        Makes the coordinator, given what reads its traffic.
    clients
        Names of the clients.
    layout
        The model's layout.
    namespace
        Topic namespace of the plan.
    trainers
        Train for the clients.
    hub
        The broker; one with faults for tests.
    on_notice
        Gets each sentence of the coordinator.
    """

    def __init__(
        self,
        coordinator: Callable[[Callable[[], dict[tuple[str, str], int]]], Coordinator],
        *,
        clients: Iterable[str],
        layout: Layout,
        namespace: str,
        trainers: Trainers,
        hub: MemoryHub | None = None,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.now = 0.0
        self._idle_looks = 0
        self.hub = hub or MemoryHub()
        self._topics = Topics(namespace)
        self._trainers = trainers
        self._on_notice = on_notice
        self._link = self.hub.connect("coordinator", self._topics.coordinator_filters())
        self.coordinator = coordinator(lambda: flat_traffic(self._link.traffic))
        self._clients = {name: self._client(name, layout) for name in sorted(clients)}

    def run(self) -> None:
        """Run to the end.

        Raises
        ------
        hedgerow.errors.HedgerowError
            When nothing can happen any more, which is a fault of ours.
        """
        self.start()
        while not self.coordinator.done:
            self.step()

    def start(self) -> None:
        """Let the coordinator begin, or go on with a run that has begun."""
        self.coordinator.connected()
        self.coordinator.start(self.now)
        self._flush()

    def step(self) -> None:
        """Deliver what waits; with nothing to deliver train; with nothing to train let the clock jump.

        Raises
        ------
        hedgerow.errors.HedgerowError
            When nothing can happen any more, which is a fault of ours.
        """
        if self._deliver() or self._train():
            self._idle_looks = 0
        else:
            self._advance()

    def received_bytes(self) -> dict[str, int]:
        """Return the PUBLISH bytes that reached each client."""
        return {name: client.link.traffic.received_bytes for name, client in self._clients.items()}

    def coordinator_bytes(self) -> dict[str, int]:
        """Return the PUBLISH bytes that the coordinator sent and received."""
        traffic = self._link.traffic
        return {"sent": traffic.sent_bytes, "received": traffic.received_bytes}

    # -- parts of the loop ----------------------------------------------------------------------------

    def _client(self, name: str, layout: Layout) -> _Client:
        memory = MemoryState()
        session = ClientSession(
            name,
            layout=layout,
            topics=self._topics,
            memory=memory,
            session=memory.next_session(),
            profile={},
            jitter=_Jitter(name),
            received_bytes=lambda: self._clients[name].link.traffic.received_bytes,
            once=True,
        )
        will = session.presence(online=False)
        link = self.hub.connect(
            name, self._topics.client_filters(name), Will(topic=will.topic, payload=will.payload)
        )
        return _Client(session=session, link=link, memory=memory)

    def _deliver(self) -> bool:
        """Hand over what waits; return whether there was anything."""
        busy = False
        for event in _drain(self._link):
            busy = True
            if isinstance(event, Received):
                self.coordinator.handle(event.topic, event.payload, now=self.now)
        self._flush()
        for client in self._clients.values():
            for event in _drain(client.link):
                busy = True
                if isinstance(event, Connected):
                    self._carry_out(client, client.session.connected(self.now))
                elif isinstance(event, Received) and not client.gone:
                    actions = client.session.handle(event.topic, event.payload, now=self.now)
                    self._carry_out(client, actions)
        return busy

    def _train(self) -> bool:
        waiting = [(name, c) for name, c in self._clients.items() if c.wanted is not None]
        requests = [(name, c.wanted) for name, c in waiting if c.wanted is not None]
        if not requests:
            return False
        for (_, client), outcome in zip(waiting, self._trainers.train(requests), strict=True):
            client.wanted = None
            if isinstance(outcome, TrainResult):
                self._carry_out(client, client.session.trained(outcome, now=self.now))
            else:
                self._carry_out(client, client.session.training_failed(outcome))
        return True

    def _advance(self) -> None:
        """Let the clock jump to the next thing that time alone brings about."""
        times = [self.coordinator.wake_at]
        times += [c.session.wake_at for c in self._clients.values() if not c.gone]
        due = [at for at in times if at is not None]
        if not due:
            raise HedgerowError(f"the simulation stands still in phase '{self.coordinator.phase}'")
        self._idle_looks = self._idle_looks + 1 if min(due) <= self.now else 0
        if self._idle_looks > MAX_IDLE_LOOKS:
            raise HedgerowError(f"the clock stands still at {self.now} s in phase '{self.coordinator.phase}'")
        self.now = max(self.now, min(due))
        self.coordinator.tick(self.now)
        self._flush()
        for client in self._clients.values():
            if not client.gone:
                self._carry_out(client, client.session.tick(self.now))

    def _flush(self) -> None:
        for publication in self.coordinator.take_publications():
            self._publish(self._link, publication)
        for notice in self.coordinator.take_notices():
            self._on_notice(notice)

    def _carry_out(self, client: _Client, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Publication):
                self._publish(client.link, action)
            elif isinstance(action, StartTraining):
                client.wanted = action.request
            elif isinstance(action, CancelTraining):
                client.wanted = None
            elif isinstance(action, Leave):
                client.gone = True
                self._publish(client.link, client.session.farewell())
                client.link.close()
                if action.failed:
                    self._on_notice(f"{client.session.client} left: {action.reason}")
                return

    @staticmethod
    def _publish(link: MemoryLink, publication: Publication) -> None:
        link.publish(publication.topic, publication.payload, retain=publication.retain, qos=publication.qos)


class _Jitter:
    """Numbers in [0, 1) that depend on the client's name alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def __call__(self) -> float:
        self._count += 1
        digest = hashlib.blake2b(f"{self._name}/{self._count}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") / 2**32


def _drain(link: MemoryLink) -> list[object]:
    events: list[object] = []
    while True:
        try:
            events.append(link.events.get_nowait())
        except queue.Empty:
            return events
