"""A simulation with real training: some trainer processes, which serve all clients."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hedgerow.runs import read_template
from hedgerow.simulation import Simulation
from hedgerow_coordinator import (
    Coordinator,
    Plan,
    RoundRecord,
    RunStore,
    evaluator,
    mean_personal,
    open_run,
)
from hedgerow_edge_client import (
    Crashed,
    EdgeClientError,
    Failed,
    Progress,
    Trained,
    TrainerProcess,
    TrainRequest,
    TrainResult,
    scan_task,
)
from hedgerow_export import template_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationFacts:
    """What came out of a simulation; bytes are PUBLISH packets, the downlink summed over its receivers.

    `personal_metric` is that of the clients' own models on what they hold out, in the last round; None where
    they have none.
    """

    metric: float | None
    personal_metric: float | None
    density: float
    uplink_bytes: int
    downlink_bytes: int
    broadcast_bytes: int
    rounds: tuple[RoundRecord, ...]
    weights_digest: str
    failure: str


class TrainerPool:
    """Train for many clients, a few at a time, in as many processes.

    Parameters
    ----------
    task
        The task file.
    folders
        Data folder of each client by name.
    workers
        How many train at a time.
    """

    def __init__(self, task: Path, *, folders: Mapping[str, Path | None], workers: int) -> None:
        self._folders = dict(folders)
        # The clients' own data is told with each request.
        self._trainers = [
            TrainerProcess(task, data=None, client="simulation") for _ in range(min(workers, len(folders)))
        ]
        self._idle: queue.SimpleQueue[TrainerProcess] = queue.SimpleQueue()
        for trainer in self._trainers:
            self._idle.put(trainer)
        self._workers = ThreadPoolExecutor(len(self._trainers))
        self._closing = False

    def train(self, requests: Sequence[tuple[str, TrainRequest]]) -> list[TrainResult | str]:
        """Train all; the order of the results is that of the requests."""
        return list(self._workers.map(self._train_one, requests))

    def close(self) -> None:
        """End all processes, also those that are at work."""
        self._closing = True
        self._workers.shutdown(wait=False, cancel_futures=True)
        for trainer in self._trainers:
            trainer.close()
            # A worker may wait for what will not come any more.
            trainer.events.put(Crashed(reason="the simulation was stopped"))
        self._workers.shutdown()

    def _train_one(self, wanted: tuple[str, TrainRequest]) -> TrainResult | str:
        name, request = wanted
        if self._closing:
            return "the simulation was stopped"
        trainer = self._idle.get()
        try:
            trainer.start_train(request, as_client=(name, self._folders[name]))
            while isinstance(event := trainer.events.get(), Progress):
                pass
        except EdgeClientError as error:
            return str(error)
        finally:
            self._idle.put(trainer)
        if isinstance(event, Trained):
            return event.result
        assert isinstance(event, Failed | Crashed)
        return str(event.reason)


def simulate(
    plan: Plan,
    *,
    task: Path,
    clients: Mapping[str, Path | None],
    run_dir: Path,
    workers: int,
    say: Callable[[str], None],
) -> SimulationFacts:
    """Run a plan with these clients over the in-memory link.

    Parameters
    ----------
    plan
        What to do.
    task
        The clients' task file.
    clients
        Data folder of each client by name.
    run_dir
        Where the run is kept; must not hold one.
    workers
        Trainers at work at a time.
    say
        Gets the coordinator's sentences.

    Raises
    ------
    hedgerow_coordinator.errors.CoordinatorError
        When the plan cannot be run.
    hedgerow_edge_client.errors.EdgeClientError
        When the task cannot be used.
    """
    scan_task(task)
    template, layout = read_template(plan)
    pool = TrainerPool(task, folders=clients, workers=workers)
    store = open_run(plan, directory=run_dir, template=template, run_id=plan.run.name)
    try:
        measure = evaluator(plan, template=template, layout=layout)
        simulation = Simulation(
            lambda read_traffic: Coordinator(
                plan,
                layout=layout,
                store=store,
                first_weights=lambda: template_parameters(template),
                evaluate=measure,
                read_traffic=read_traffic,
            ),
            clients=clients,
            layout=layout,
            namespace=plan.transport.namespace,
            trainers=pool,
            on_notice=say,
        )
        simulation.run()
        return _facts(simulation, store)
    finally:
        store.close()
        pool.close()


def _facts(simulation: Simulation, store: RunStore) -> SimulationFacts:
    coordinator, totals = simulation.coordinator, simulation.coordinator_bytes()
    rounds = tuple(record for record in store.rounds() if record.status == "committed" and record.round > 0)
    return SimulationFacts(
        metric=rounds[-1].accuracy if rounds else None,
        personal_metric=mean_personal(store.update_records(rounds[-1].round))[0] if rounds else None,
        density=coordinator.state.mask.density,
        uplink_bytes=totals["received"],
        downlink_bytes=sum(simulation.received_bytes().values()),
        broadcast_bytes=totals["sent"],
        rounds=rounds,
        weights_digest=hashlib.blake2b(coordinator.state.weights.tobytes(), digest_size=8).hexdigest(),
        failure=coordinator.failure or "",
    )
