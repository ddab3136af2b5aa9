"""Deliveries at the rim: the trial in its process, between rounds, and the clock."""

from __future__ import annotations

import queue
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from hedgerow_devices import Decision, Governor, Readings
from hedgerow_edge_client.actions import Say
from hedgerow_edge_client.delivery import DeliverySession, Told, Trial, TrialResult
from hedgerow_edge_client.errors import FrameFault
from hedgerow_edge_client.model_shelf import ModelShelf
from hedgerow_edge_client.trainer_frames import unpack_array
from hedgerow_edge_client.trainer_process import TrainerProcess
from hedgerow_edge_client.trial import TRIAL_BYTES, TRIAL_ROWS, LocalRows, trial_sandbox, try_model
from hedgerow_export import SandboxError
from hedgerow_transport import Connected, LinkEvent, Received, Topics

# Stands in the birth message: who has it answers to deliveries.
ANSWERS = "deliveries"
ANSWERS_VERSION = 1
POLL_S = 0.1
# A round that begins stops a trial so often; then the trial is brought to its end beside the training.
MAX_POSTPONED = 3
MAX_MODEL_BYTES = 512 << 20
MAX_ATTEMPTS = 3


class DeliveryDesk:
    """Fetch, try and switch delivered models beside a client's rounds.

    Parameters
    ----------
    client
        This device's name.
    topics
        The names of the namespace.
    directory
        The client's state directory.
    open_trainer
        Returns the client's trainer, which holds its data; called between rounds only.
    heard_at
        Returns when the link last carried anything to here.
    """

    def __init__(
        self,
        client: str,
        *,
        topics: Topics,
        directory: Path,
        open_trainer: Callable[[], TrainerProcess],
        heard_at: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._open_trainer = open_trainer
        self._shelf = ModelShelf(directory)
        self._shelf.mend()
        self.session = DeliverySession(
            client,
            topics=topics,
            shelf=self._shelf,
            jitter=random.random,
            heard_at=heard_at,
            room=self._room,
            wall_clock=time.time,
        )
        self._job: _Job | None = None
        self._postponed = self._attempts = 0
        self._try_at = 0.0
        self._decision: Decision | None = None

    @property
    def warnings(self) -> list[str]:
        """What was found damaged."""
        return self._shelf.warnings

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the monotonic clock."""
        if self._job is not None:
            return time.monotonic() + POLL_S
        waits = None if self.session.trial is None else max(self._try_at, time.monotonic() + POLL_S)
        times = [self.session.wake_at, waits]
        return min((at for at in times if at is not None), default=None)

    def take(self, event: LinkEvent | None, *, now: float) -> list[Told]:
        """Take what the link has brought."""
        if isinstance(event, Connected):
            self.session.connected(now)
        if isinstance(event, Received):
            return self.session.handle(event.topic, event.payload, now=now)
        return []

    def tick(self, now: float, *, busy: bool) -> list[Told]:
        """Let time pass; `busy` while the device trains or is about to."""
        told = self.session.tick(now)
        trial, job = self.session.trial, self._job
        if job is not None and job.trial is not trial:
            job.stop()  # something else is on offer now
            self._job = job = None
        if job is None:
            if trial is not None and not busy and now >= self._try_at and self._may_go(now):
                self._job = _Job(trial, self._open_trainer())
            return told
        if busy and self._postponed < MAX_POSTPONED:
            job.stop()
            self._job, self._postponed = None, self._postponed + 1
            return told
        if job.waits_for_rows:
            self._open_trainer()  # it is not idle
        result = job.poll()
        if result is None:
            return told
        self._job = None
        self._attempts += 1
        if result.passing and not result.samples and self._attempts < MAX_ATTEMPTS:
            self._try_at = now + 5.0 * self._attempts
            return [*told, Say(text=f"the trial of a delivered model is put off: {result.refusal}")]
        self._postponed = self._attempts = 0
        return told + self.session.tried(result, now=now)

    def close(self) -> None:
        """Stop a trial that is under way; it begins anew at the next start."""
        if self._job is not None:
            self._job.stop()
            self._job = None

    def _may_go(self, now: float) -> bool:
        """Ask the governor, as before a training: a hot or empty device tries nothing."""
        self._decision = Governor().decide(Readings.take(directory=self._directory), previous=self._decision)
        self._try_at = now if self._decision.go else now + self._decision.retry_s
        return self._decision.go

    def _room(self) -> int:
        """Return how large a model may be: it is in memory while it comes, and lies on the disk twice."""
        try:
            disk = shutil.disk_usage(self._directory).free // 4
        except OSError:
            disk = 0
        return max(0, min(MAX_MODEL_BYTES, psutil.virtual_memory().available // 4, disk))


class _Job:
    """One trial: ask the trainer for samples, then measure in a thread that waits for the sandbox."""

    def __init__(self, trial: Trial, trainer: TrainerProcess) -> None:
        self.trial = trial
        self._rows = trainer.start_rows(most=TRIAL_ROWS, most_bytes=TRIAL_BYTES)
        self._sandbox = trial_sandbox()
        self._results: queue.SimpleQueue[TrialResult] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waits_for_rows(self) -> bool:
        return self._thread is None

    def poll(self) -> TrialResult | None:
        """Return the result; None while there is none."""
        try:
            if self._thread is not None:
                return self._results.get_nowait()
            answer = self._rows.get_nowait()
        except queue.Empty:
            return None
        rows = rows_of(answer)
        if isinstance(rows, TrialResult):
            return rows
        self._thread = threading.Thread(target=self._run, args=(rows,), name="trial", daemon=True)
        self._thread.start()
        return None

    def stop(self) -> None:
        self._sandbox.cancel()

    def _run(self, rows: LocalRows) -> None:
        try:
            self._results.put(try_model(self.trial, rows, sandbox=self._sandbox))
        except SandboxError as error:
            self._results.put(TrialResult(refusal=str(error), passing=True))


def rows_of(answer: Any) -> LocalRows | TrialResult:
    """Return samples out of the answer to `TrainerProcess.start_rows`, or why there are none."""
    if isinstance(answer, Exception):
        return TrialResult(refusal=str(answer), passing=True)
    if "failed" in answer:
        return TrialResult(
            refusal=f"there is nothing to try it on: {answer['failed']['reason']}", passing=True
        )
    try:
        found = answer["result"]
        inputs, targets = unpack_array(found["inputs"]), unpack_array(found["targets"])
        return LocalRows(inputs=inputs, targets=targets, metric=str(found["metric"]))
    except (FrameFault, KeyError, TypeError) as error:
        return TrialResult(refusal=f"the trainer sent no samples ({error})", passing=True)
