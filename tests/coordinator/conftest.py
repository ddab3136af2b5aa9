"""A federation over the in-memory link that a test can disturb: links fall, processes are killed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.simulation import Simulation
from hedgerow_codecs import Layout, Mask, TensorSpec, model_digest
from hedgerow_coordinator import Coordinator, RunStore
from hedgerow_coordinator.plan import (
    CodecSettings,
    CohortSettings,
    ModelSettings,
    Plan,
    RunSettings,
    TransportSettings,
)
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_coordinator.server_model import published_digest
from hedgerow_edge_client import MemoryState, TrainRequest, TrainResult
from hedgerow_transport import MemoryHub, MemoryLink, Publication, publish_bytes

SMALL = (
    TensorSpec(name="a.weight", shape=(8, 6), kind="linear", prunable=True),
    TensorSpec(name="a.bias", shape=(8,), kind="bias", prunable=False),
    TensorSpec(name="b.weight", shape=(2, 8), kind="linear", prunable=False),
)
# 12 kB as float32: twelve chunks of the smallest size.
LONG = (
    TensorSpec(name="a.weight", shape=(60, 50), kind="linear", prunable=True),
    TensorSpec(name="a.bias", shape=(60,), kind="bias", prunable=False),
)


class FakeTrainers:
    """Move every live weight by a multiple of 1/1024 that the request's seed decides.

    Attributes
    ----------
    outcomes
        By (client, round), what comes instead: a reason, or a change of the result.
    done
        Requests and results in order.
    """

    def __init__(self) -> None:
        self.num_samples: dict[str, int] = {}
        self.outcomes: dict[tuple[str, int], str | Callable[[TrainResult], TrainResult]] = {}
        self.done: list[tuple[str, TrainRequest, TrainResult | str]] = []

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        results = [self._train(name, request) for name, request in requests]
        self.done += [
            (name, request, result) for (name, request), result in zip(requests, results, strict=True)
        ]
        return results

    def rounds_of(self, client: str) -> list[int]:
        return [request.round for name, request, _ in self.done if name == client]

    def _train(self, name: str, request: TrainRequest) -> TrainResult | str:
        steps = np.random.default_rng(request.seed).integers(-8, 9, request.weights.size)
        moved = request.weights + np.where(request.live, steps / 1024, 0)
        result = TrainResult(
            weights=moved.astype(np.float32),
            num_samples=self.num_samples.get(name, 10),
            loss=1.0,
            accuracy=0.5,
            steps=1,
            seconds=2.0,
        )
        outcome = self.outcomes.get((name, request.round))
        if isinstance(outcome, str):
            return outcome
        return result if outcome is None else outcome(result)


class Rig(Simulation):
    """A simulation that can be disturbed.

    Attributes
    ----------
    silent
        Clients whose training never ends.
    sent
        Every publication by the name of its sender.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        directory: Path,
        clients: Iterable[str],
        tensors: Sequence[TensorSpec] = SMALL,
        hub: MemoryHub | None = None,
        backwards: bool = False,
    ) -> None:
        self.plan = plan
        self.layout = Layout(tensors=tuple(tensors))
        self.directory = directory
        self.notices: list[str] = []
        self.silent: set[str] = set()
        self.fake = FakeTrainers()
        self.sent: list[tuple[str, Publication]] = []
        self.first_weights = (np.arange(self.layout.num_parameters) % 17 - 8).astype(np.float32) / 64
        if (directory / "journal.sqlite").exists():
            self.store = RunStore.open(directory)
        else:
            self.store = RunStore.create(
                directory, plan_bytes=plan.to_toml().encode(), template_bytes=b"x", run_id="trial"
            )
        super().__init__(
            self._lead,
            clients=clients,
            layout=self.layout,
            namespace=plan.transport.namespace,
            trainers=self.fake,
            hub=hub,
            on_notice=self.notices.append,
        )
        if backwards:
            self._clients = dict(reversed(self._clients.items()))

    def _lead(self, read_traffic: Callable[[], dict[tuple[str, str], int]]) -> Coordinator:
        return Coordinator(
            self.plan,
            layout=self.layout,
            store=self.store,
            first_weights=lambda: self.first_weights.copy(),
            evaluate=None,
            read_traffic=read_traffic,
            wall_clock=lambda: 1e9 + self.now,
        )

    # -- disturbances ---------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], *, steps: int = 20_000) -> None:
        for _ in range(steps):
            if condition():
                return
            self.step()
        raise AssertionError(f"still not so after {steps} steps, at {self.now} s in {self.coordinator.phase}")

    def until_round(self, number: int) -> None:
        """Go on until round `number` has begun."""
        self.until(
            lambda: self.coordinator.state.version >= number - 1 and self.coordinator.phase == "collect"
        )

    def to_end(self) -> None:
        self.until(lambda: self.coordinator.done)
        self._deliver()

    def join(self, name: str, *, memory: MemoryState | None = None) -> None:
        """Start a client, with what an earlier process of it has saved if there is a `memory`."""
        client = self._client(name, self.layout)
        if memory is not None:
            # The session is made anew: it reads its memory at the start.
            session = type(client.session)(
                name,
                layout=self.layout,
                topics=self._topics,
                memory=memory,
                session=memory.next_session(),
                profile={},
                jitter=lambda: 0.25,
                received_bytes=lambda: self._clients[name].link.traffic.received_bytes,
                once=True,
            )
            will = session.presence(online=False)
            client.link.will = replace(client.link.will, payload=will.payload)
            client.session, client.memory = session, memory
        self._clients[name] = client

    def kill(self, name: str) -> MemoryState:
        """Cut a client's power; return what its disk holds."""
        client = self._clients.pop(name)
        client.link.drop()
        return client.memory

    def drop(self, name: str) -> None:
        self._clients[name].link.drop()

    def reconnect(self, name: str) -> None:
        self._clients[name].link.reconnect()

    def restart_coordinator(self) -> None:
        """Kill the coordinator's process and start it again on its run directory."""
        self._link.drop()
        self.store.close()
        self.store = RunStore.open(self.directory)
        self._link = self.hub.connect("coordinator", self._topics.coordinator_filters())
        self.coordinator = self._lead(self._read_traffic)
        self.start()

    def say(self, topic: str, payload: bytes) -> None:
        """Publish as somebody who is no part of the federation."""
        link = self.hub.connect("stranger")
        link.publish(topic, payload)
        link.close()

    def _read_traffic(self) -> dict[tuple[str, str], int]:
        from hedgerow_coordinator import flat_traffic

        return flat_traffic(self._link.traffic)

    def _train(self) -> bool:
        held = {name: c.wanted for name, c in self._clients.items() if name in self.silent}
        for name in held:
            self._clients[name].wanted = None
        busy = super()._train()
        for name, wanted in held.items():
            self._clients[name].wanted = wanted
        return busy

    def _publish(self, link: MemoryLink, publication: Publication) -> None:  # type: ignore[override]
        self.sent.append((link.client_id, publication))
        link.publish(publication.topic, publication.payload, retain=publication.retain, qos=publication.qos)

    # -- what to look at ------------------------------------------------------------------------------

    @property
    def topics(self) -> Any:
        return self._topics

    def session(self, name: str) -> Any:
        return self._clients[name].session

    def model_of(self, name: str) -> bytes:
        """Return the digest of the model on a client's disk."""
        snapshot = self._clients[name].memory.load()
        assert snapshot is not None
        return model_digest(snapshot.weights, mask=Mask(layout=self.layout, live=snapshot.live))

    def pending_of(self, name: str) -> Any:
        """Return the update on a client's disk that is not acknowledged, or None."""
        snapshot = self._clients[name].memory.load()
        return None if snapshot is None else snapshot.pending

    def residual_of(self, name: str) -> Any:
        snapshot = self._clients[name].memory.load()
        assert snapshot is not None
        return snapshot.residual

    @property
    def published(self) -> bytes:
        return published_digest(self.coordinator.state)

    @property
    def outcome(self) -> bytes:
        """The precise weights and the mask, as bytes."""
        state = self.coordinator.state
        return state.weights.tobytes() + state.mask.digest

    def counted(self) -> list[tuple[int, str]]:
        """Return (round, client) of every update that the journal holds."""
        return [(record.round, record.client) for record in self.store.update_records()]

    def bytes_sent_by(self, name: str) -> int:
        return sum(publish_bytes(p.topic, p.payload, p.qos) for sender, p in self.sent if sender == name)


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Return what makes a plan; keywords are keys of [cohort], others are named."""

    def make(
        *,
        rounds: int = 3,
        codec: str = "float32",
        downlink: str | None = None,
        density: float = 1.0,
        end_round: int = 3,
        seed: int = 7,
        init: str = "template",
        chunk_bytes: int = 1024,
        **cohort: Any,
    ) -> Plan:
        uplink, down = {"codec_id": codec}, {"codec_id": downlink or codec}
        policy = PruningPolicy(
            policy="none" if density == 1 else "server", density=density, end_round=end_round
        )
        return Plan(
            run=RunSettings(name="trial", rounds=rounds, seed=seed),
            model=ModelSettings(init=init),
            cohort=CohortSettings(**{"min_clients": 3, **cohort}),
            codec=CodecSettings(uplink=uplink, downlink=down),
            pruning=policy,
            transport=TransportSettings(chunk_bytes=chunk_bytes),
        )

    return make


@pytest.fixture
def make_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    """Return what makes a federation of some clients in a run directory of its own."""
    # Power cuts are for the store's tests; here every fsync is time.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    rigs: list[Rig] = []

    def make(plan: Plan, clients: str | Iterable[str] = "abc", **options: Any) -> Rig:
        rig = Rig(plan, directory=tmp_path / f"run{len(rigs)}", clients=clients, **options)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        rig.store.close()


@pytest.fixture
def long_tensors() -> tuple[TensorSpec, ...]:
    return LONG
