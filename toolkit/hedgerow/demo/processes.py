"""The demo's processes: started together, watched, and ended together."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hedgerow.errors import HedgerowError
from hedgerow_transport import die_with_parent

# Clients and coordinator save and say goodbye in this time, or they are killed.
STOP_S = 3.0
LOG_LINES = 5


class ProcessDied(HedgerowError):
    """A process of the demo ended before its time; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    log: Path
    handle: subprocess.Popen[bytes]


class Processes:
    """Start `hedgerow` commands whose output goes to log files.

    They are in a session of their own, so that Ctrl-C reaches this process alone, which then ends them in
    order; and the kernel ends them when this process is killed.

    Parameters
    ----------
    logs
        Folder for the log files.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: list[_Process] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *arguments: str) -> None:
        """Start ``hedgerow ARGUMENTS`` under a name."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            handle = subprocess.Popen(
                [sys.executable, "-m", "hedgerow.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._running.append(_Process(name, log, handle))

    def pid(self, name: str) -> int:
        """Return the process id of a process."""
        return next(process.handle.pid for process in self._running if process.name == name)

    def check(self) -> None:
        """Look whether a process has failed.

        Raises
        ------
        ProcessDied
            When one has ended with an error.
        """
        for process in self._running:
            code = process.handle.poll()
            if code not in (None, 0):
                raise ProcessDied(f"{process.name} ended with {_meaning(code)}:\n{_tail(process.log)}")

    def ended(self, name: str) -> bool:
        """Return whether a process has ended."""
        return next(p.handle.poll() is not None for p in self._running if p.name == name)

    def wait(self, *, timeout_s: float) -> None:
        """Wait until all have ended by themselves, at most `timeout_s` each."""
        for process in self._running:
            try:
                process.handle.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return

    def stop(self) -> None:
        """End all: ask, wait, kill. May be called twice."""
        for process in self._running:
            if process.handle.poll() is None:
                process.handle.terminate()
        for process in self._running:
            try:
                process.handle.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.handle.kill()
                process.handle.wait()


def _meaning(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"
