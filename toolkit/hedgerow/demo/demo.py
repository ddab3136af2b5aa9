"""The demo from beginning to end."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from hedgerow.demo.digits import write_digits
from hedgerow.demo.facts import DemoFacts, bytes_by_kind, downlink_bytes, total_bytes
from hedgerow.demo.plans import dense_plan, pruned_plan
from hedgerow.demo.processes import Processes
from hedgerow.demo.table import LiveTable
from hedgerow.errors import HedgerowError
from hedgerow.exporting import ExportFacts, committed, export_run
from hedgerow.initialise import initialise
from hedgerow.runs import open_finished_rounds
from hedgerow.simulating import SimulationFacts, simulate
from hedgerow_coordinator import (
    CHECK_DATA,
    RoundRecord,
    StoreError,
    load_plan,
    network_of,
    read_test_data,
)
from hedgerow_edge_client import TrainerProcess
from hedgerow_transport import BrokerUrl, LinkError, MqttLink, Topics, start_broker

POLL_S = 0.1
FAREWELL_S = 8.0
TASK = Path(__file__).with_name("digits_task.py")


class Interrupted(HedgerowError):
    """The person at the terminal wishes to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the demo is called with.

    Parameters
    ----------
    broker
        Use this one; None starts one.
    directory
        Where everything is written; new.
    clients, rounds, seed
        Of the run.
    compare
        Whether dense FedAvg is run as well.
    """

    broker: str | None
    directory: Path
    clients: int
    rounds: int
    seed: int
    compare: bool

    @property
    def namespace(self) -> str:
        """One of its own on a broker that others use, made from the folder's path."""
        if self.broker is None:
            return "default"
        return f"demo-{hashlib.blake2b(str(self.directory.resolve()).encode(), digest_size=6).hexdigest()}"


def run_demo(settings: DemoSettings, *, console: Console, stop: threading.Event) -> DemoFacts:
    """Run the demo; `stop` ends it.

    Raises
    ------
    Interrupted
        When `stop` was set.
    hedgerow.demo.processes.ProcessDied
        When one of its processes fails.
    """
    started = time.monotonic()
    table = LiveTable(rounds=settings.rounds, console=console)
    say = partial(console.print, soft_wrap=True)
    work = settings.directory
    # First of all: without a broker there is nothing to prepare for.
    with _broker(settings) as (url, name):
        data = write_digits(work / "data", num_clients=settings.clients, seed=settings.seed)
        say(
            f"{data.num_train:,} handwritten digits on {settings.clients} clients "
            f"(label split Dirichlet(0.3)), {data.num_test} held out for the test"
        )
        say("exporting the model's ONNX template ...")
        _make_plans(settings, data=data.folders[0])
        _check(stop)
        say(f"broker: {name}; coordinator and {settings.clients} clients are processes of their own")
        records = _federate(settings, url=url, folders=data.folders, table=table, stop=stop)
    run_dir = work / "run"
    _check(stop)
    exported = _export(run_dir, output=work / "model.onnx", data=data.folders[0])
    dense = _dense(settings, folders=data.folders, say=say, stop=stop) if settings.compare else None
    with open_finished_rounds(run_dir) as store:
        accuracy = records[-1].accuracy
        assert accuracy is not None
        kinds = bytes_by_kind(store)
        return DemoFacts(
            accuracy=accuracy,
            dense_accuracy=None if dense is None else dense.metric,
            density=exported.density,
            rounds=len(records),
            clients=settings.clients,
            uplink_bytes=total_bytes(kinds, "received"),
            downlink_bytes=downlink_bytes(store, records),
            dense_uplink_bytes=None if dense is None else dense.uplink_bytes,
            dense_downlink_bytes=None if dense is None else dense.downlink_bytes,
            wall_s=round(time.monotonic() - started, 1),
            onnx_path=str(work / "model.onnx"),
            onnx_bytes=exported.onnx_bytes,
            onnx_max_abs_error=exported.max_abs_error,
            onnx_top1_agreement=exported.top1_agreement,
            broadcast_bytes=total_bytes(kinds, "sent"),
            bytes_by_kind=kinds,
        )


def _make_plans(settings: DemoSettings, *, data: Path) -> None:
    work = settings.directory
    initialise(
        TASK,
        data=data,
        output=work,
        name="demo",
        min_clients=settings.clients,
        rounds=settings.rounds,
        force=False,
    )
    arguments = {"rounds": settings.rounds, "clients": settings.clients, "seed": settings.seed}
    transport = f'\n[transport]\nnamespace = "{settings.namespace}"\n'
    (work / "plan.toml").write_text(pruned_plan(**arguments) + transport)
    (work / "plan-dense.toml").write_text(dense_plan(**arguments))


@contextlib.contextmanager
def _broker(settings: DemoSettings) -> Iterator[tuple[str, str]]:
    if settings.broker is not None:
        # Says at once what is wrong with it.
        link = MqttLink(settings.broker, client_id=f"hedgerow-{settings.namespace}")
        link.connect()
        try:
            yield settings.broker, f"yours at {BrokerUrl.parse(settings.broker).place}"
        finally:
            _clear(link, settings)
            link.close()
        return
    with start_broker(directory=settings.directory / "broker") as broker:
        yield broker.url, f"{broker.name} at {broker.url}, on this machine only"


def _clear(link: MqttLink, settings: DemoSettings) -> None:
    """Take what the demo has left on somebody's broker off it."""
    topics = Topics(settings.namespace)
    names = [f"client-{number}" for number in range(settings.clients)]
    for topic in (topics.manifest, topics.coordinator, *map(topics.presence, names)):
        with contextlib.suppress(LinkError):
            link.publish(topic, b"", retain=True, qos=1)


def _federate(
    settings: DemoSettings, *, url: str, folders: Sequence[Path], table: LiveTable, stop: threading.Event
) -> list[RoundRecord]:
    work = settings.directory
    with Processes(work / "logs") as processes, table:
        processes.start(
            "coordinator",
            *("coordinator", str(work / "plan.toml"), "--broker", url, "--run-dir", str(work / "run")),
        )
        for folder in folders:
            processes.start(
                folder.name,
                *("client", str(TASK), "--broker", url, "--data", str(folder), "--name", folder.name),
                *("--namespace", settings.namespace),
                *("--state-dir", str(work / "state" / folder.name), "--once", "--threads", "1"),
            )
        while not processes.ended("coordinator"):
            _check(stop)
            processes.check()
            records = _records(work / "run")
            busy = "training" if records else "clients load torch and join"
            table.show(records, status=f"{busy} ... (logs in {processes.logs})")
            stop.wait(POLL_S)
        processes.check()
        processes.wait(timeout_s=FAREWELL_S)
        records = _records(work / "run")
        table.show(records, status="")
        return records


def _records(run_dir: Path) -> list[RoundRecord]:
    try:
        with open_finished_rounds(run_dir) as store:
            return [r for r in store.rounds() if r.status == "committed" and r.round > 0]
    except StoreError:
        # The coordinator has not made it yet.
        return []


def _export(run_dir: Path, *, output: Path, data: Path) -> ExportFacts:
    inputs, _ = read_test_data(run_dir / CHECK_DATA)
    with open_finished_rounds(run_dir) as store:
        state = network_of(committed(store)[1], store.plan)
    with TrainerProcess(TASK, data=data, client=data.name) as trainer:
        reference: NDArray[np.generic] = trainer.predict(state.weights, inputs)
    return export_run(run_dir, output=output, reference=reference)


def _dense(
    settings: DemoSettings, *, folders: Sequence[Path], say: object, stop: threading.Event
) -> SimulationFacts:
    work = settings.directory
    assert callable(say)
    say("the same rounds as dense float32 FedAvg, to compare (in memory) ...")

    def notice(sentence: str) -> None:  # noqa: ARG001 -- only the chance to stop is wanted
        _check(stop)

    return simulate(
        load_plan(work / "plan-dense.toml"),
        task=TASK,
        clients={folder.name: folder for folder in folders},
        run_dir=work / "run-dense",
        workers=2,
        say=notice,
    )


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("interrupted")
