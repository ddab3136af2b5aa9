"""A federation of processes in which broker, coordinator and clients are killed by a seed's schedule."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.light.agents import light_plan

from hedgerow_coordinator import RunStore
from hedgerow_transport import Broker, start_broker

ROOT = Path(__file__).parents[2]
CLIENTS = ("a", "b", "c")
ROUNDS = 5
PARAMETERS = 8192
TRAIN_S = 0.1
# Whole steps of 1/1024, as the light trainer makes them: five bits lose nothing and sums are exact.
UPLINK: dict[str, object] = {"codec_id": "integer", "step": 2.0**-10, "bits": 5, "packed": True}
# Processes are forks of one that has imported everything: an import takes most of a second.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["benchmarks.light.__main__"])
_TAKEN = re.compile(r"^round (\d+): update of", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """SIGKILL for somebody, `after_s` after the kill before, and the same command again `down_s` later."""

    victim: str
    after_s: float
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a federation has come to.

    Parameters
    ----------
    weights : bytes
        The last version's.
    updates : Counter
        How often each (round, client, digest) is in the journal.
    acked : frozenset
        (round, client) of each update whose client was told that it is taken.
    killed : tuple of str
        Who was alive at its kill.
    seconds : float
    """

    weights: bytes
    updates: Counter[tuple[int, str, bytes]]
    acked: frozenset[tuple[int, str]]
    killed: tuple[str, ...]
    seconds: float


class EndlessError(Exception):
    """A federation has not ended in time, or not well."""


def schedule_of(seed: int) -> tuple[Kill, ...]:
    """Return three to seven kills at random moments; the first comes before a quick machine is done."""
    chance = random.Random(seed)
    victims = ("broker", "coordinator", "coordinator", *CLIENTS)
    return tuple(
        Kill(
            victim=chance.choice(victims), after_s=chance.uniform(0.05, 0.8), down_s=chance.uniform(0.0, 0.7)
        )
        for _ in range(chance.randint(3, 7))
    )


def run_schedule(
    kills: tuple[Kill, ...],
    *,
    folder: Path,
    timeout_s: float = 90.0,
    beside: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Ending:
    """Run a federation through its kills to its end; it is signed where `folder` has ``keys``.

    Parameters
    ----------
    kills : tuple of Kill
    folder : Path
        For all that is kept.
    timeout_s : float
    beside : callable
        Given the broker's URL, returns what is entered while the federation runs.

    Raises
    ------
    EndlessError
        When a process is still there in the end, or ended by itself with a failure.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    plan = light_plan(
        rounds=ROUNDS,
        clients=len(CLIENTS),
        uplink=UPLINK,
        deadline_s=20.0,
        transport={"chunk_bytes": 1024},
    )
    (folder / "plan.toml").write_text(plan.to_toml())
    with contextlib.ExitStack() as stack:
        federation = stack.enter_context(Federation(folder))
        federation.start("broker")
        stack.enter_context(beside(f"mqtt://127.0.0.1:{federation.port}"))
        for name in ("coordinator", *CLIENTS):
            federation.start(name)
        killed = [federation.kill(kill) for kill in kills]
        federation.await_end(started + timeout_s)
    with RunStore.open(folder / "run", read_only=True) as store:
        latest = store.latest()
        updates = Counter((each.round, each.client, each.digest) for each in store.update_records())
    if latest is None or latest[0] != ROUNDS:
        raise EndlessError(f"the run stands at {latest and latest[0]} of {ROUNDS} rounds")
    acked = {
        (int(number), name)
        for name in CLIENTS
        for number in _TAKEN.findall((folder / f"{name}.log").read_text())
    }
    return Ending(
        weights=latest[1].weights.tobytes(),
        updates=updates,
        acked=frozenset(acked),
        killed=tuple(name for name in killed if name),
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class Federation:
    """The broker and the processes, by name; each can be started again with the same command.

    Parameters
    ----------
    folder : Path
        With ``plan.toml``; logs, the run and the states of clients come there.
    """

    folder: Path
    port: int = 0
    broker: Broker | None = None
    processes: dict[str, multiprocessing.process.BaseProcess] = field(default_factory=dict)

    def __enter__(self) -> Federation:
        path = os.environ.get("PYTHONPATH", "")
        if str(ROOT) not in path.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(ROOT), path) if part)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()
        if self.broker is not None:
            self.broker.close()

    def start(self, name: str) -> None:
        """Start ``broker``, ``coordinator`` or a client of this name."""
        if name == "broker":
            self.broker = start_broker(directory=self.folder / "broker", port=self.port, prefer="mosquitto")
            self.port = int(self.broker.url.rsplit(":", 1)[1])
            return
        command = ["coordinator"] if name == "coordinator" else ["client", "--name", name]
        command += ["--broker", f"mqtt://127.0.0.1:{self.port}", "--folder", str(self.folder)]
        command += ["--parameters", str(PARAMETERS), "--train-s", str(TRAIN_S)]
        process = _FORKS.Process(target=_run, args=(command, self.folder / f"{name}.log"), name=name)
        process.start()
        self.processes[name] = process

    def kill(self, kill: Kill) -> str:
        """Carry a kill out; return who was killed, or nothing when it had ended before."""
        time.sleep(kill.after_s)
        if kill.victim == "broker":
            assert self.broker is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.broker.pid, signal.SIGKILL)
            self.broker.close()
        else:
            process = self.processes[kill.victim]
            if not process.is_alive():
                return ""
            process.kill()
            process.join()
        time.sleep(kill.down_s)
        self.start(kill.victim)
        if kill.victim == "broker" and not self.processes["coordinator"].is_alive():
            # The run is over, and nobody else knows how it ended: this broker keeps nothing on disk.
            self.start("coordinator")
        return kill.victim

    def await_end(self, give_up_at: float) -> None:
        """Wait for all processes to end by themselves, until a time by `time.monotonic`.

        Raises
        ------
        EndlessError
            When one has not ended by then, or with a failure.
        """
        for name, process in self.processes.items():
            process.join(max(0.0, give_up_at - time.monotonic()))
            if process.exitcode is None:
                raise EndlessError(f"{name} has not ended; {self.tail(name)}")
            if process.exitcode != 0:
                raise EndlessError(f"{name} ended with code {process.exitcode}; {self.tail(name)}")

    def said(self, name: str) -> str:
        """Return all that a process has said."""
        log = self.folder / f"{name}.log"
        return log.read_text() if log.exists() else ""

    def tail(self, name: str) -> str:
        """Return what it said last, for an error."""
        return f"its last words: {self.said(name)[-600:]!r}"


def _run(command: list[str], log: Path) -> None:
    from benchmarks.light.__main__ import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    raise SystemExit(main(command))
