"""A light run's coordinator in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.light import lead
from benchmarks.transport.brokers import peak_mib, wait_until

from hedgerow_coordinator import Plan

_SPAWN = multiprocessing.get_context("spawn")


class CoordinatorProcess:
    """Lead a run until its end; what it says goes to a file.

    Parameters
    ----------
    plan : Plan
    broker : str
        URL.
    folder : Path
        For the run.
    num_parameters : int
    """

    def __init__(self, plan: Plan, *, broker: str, folder: Path, num_parameters: int) -> None:
        self.run_dir = folder / "run"
        self._log = folder / "coordinator.log"
        self._process = _SPAWN.Process(
            target=_run, args=(plan.to_toml(), broker, self.run_dir, num_parameters, self._log), daemon=True
        )
        self._process.start()
        wait_until(lambda: "waiting for clients" in self.said, "coordinator", timeout_s=60)

    @property
    def said(self) -> str:
        """All it has said."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def peak_mib(self) -> float:
        """The largest memory it has taken."""
        assert self._process.pid is not None
        return peak_mib(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()


def _run(plan: str, broker: str, run_dir: Path, num_parameters: int, log: Path) -> None:
    from hedgerow_coordinator import parse_plan

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    lead(
        parse_plan(plan.encode()),
        broker=broker,
        run_dir=run_dir,
        num_parameters=num_parameters,
        say=lambda sentence: print(sentence, flush=True),
    )
