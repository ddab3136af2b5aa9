"""The client's side of the trainer: a child process whose crash is an event, not an end. Loads no torch."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, LayoutError
from hedgerow_edge_client.errors import (
    EdgeClientError,
    EmptyData,
    TaskError,
    TrainerCrashed,
    TrainerFailed,
    TrainerTimeout,
    TrainingDiverged,
)
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.trainer_frames import pack_array, unpack_array
from hedgerow_edge_client.trainer_life import EVENTS, TrainerLife

# glibc keeps what a batch frees for the next one. Left alone it gives much of that back to the system, which
# hands it out again page by page: with two trainers of a small network at a time that was a fifth of all.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_KINDS: dict[str, type[EdgeClientError]] = {
    "TaskError": TaskError,
    "EmptyData": EmptyData,
    "TrainingDiverged": TrainingDiverged,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a task is, as the trainer sees it.

    Parameters
    ----------
    layout
        The model's tensors.
    num_samples
        Training samples of this client.
    torch_version
        Such as ``2.9.1``.
    metric
        Name of the task's metric.
    has_test_data
        Whether the task file defines `load_test_data`.
    freeze
        What the task file calls frozen, and the parameters that take no gradient.
    """

    layout: Layout
    num_samples: int
    torch_version: str
    metric: str
    has_test_data: bool
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """What a device measures on.

    Parameters
    ----------
    inputs, targets
        Of all samples.
    by_task
        Whether the task holds them out, of all training; else only those who ask for the share do.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    by_task: bool


class TrainerProcess:
    """Trains in a child process, which starts when it is first needed.

    All methods but `cancel` and `close` may be called from one thread only. The process stays until `stop` or
    `close`; after a crash or `stop` the next call starts another one.

    Parameters
    ----------
    task
        The task file.
    data
        The folder of this device's data, given to the task.
    client
        This device's name, given to the task.
    threads
        Threads of torch.
    events
        A queue to put events into, where another one than an own is wanted.

    Attributes
    ----------
    events : queue.Queue
        `Progress`, `Trained`, `Failed` and `Crashed` of `start_train`.
    """

    def __init__(
        self,
        task: Path,
        *,
        data: Path | None,
        client: str,
        threads: int = 1,
        events: queue.Queue[Any] | None = None,
    ) -> None:
        self.events: queue.Queue[Any] = queue.Queue() if events is None else events
        self._command = [sys.executable, "-P", "-m", "hedgerow_edge_client.trainer", str(task)]
        self._command += ["--client", client, "--threads", str(threads)]
        self._command += [] if data is None else ["--data", str(data)]
        self._environment = {**_KEPT_MEMORY, **os.environ, "OMP_NUM_THREADS": str(threads)}
        self._child: TrainerLife | None = None
        self._layout: bytes | None = None
        self._number = 0

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Id of the process; None when there is none."""
        return None if self._child is None or not self._child.alive else self._child.pid

    def describe(self, *, timeout_s: float = 180.0) -> Description:
        """Load the task, its model and its data, and say what they are.

        Raises
        ------
        TaskError, EmptyData
            The task file cannot be used, or has no data for this client.
        TrainerCrashed, TrainerTimeout, TrainerFailed
            The process died, did not answer, or failed in another way.
        """
        answer = self._ask("describe", {}, timeout_s=timeout_s)
        try:
            layout = Layout.from_bytes(answer["layout"])
        except LayoutError as error:
            raise TrainerFailed(f"the trainer sent no layout: {error}", kind="LayoutError") from error
        self._layout = layout.digest
        return Description(
            layout=layout,
            num_samples=int(answer["num_samples"]),
            torch_version=str(answer["torch_version"]),
            metric=str(answer["metric"]),
            has_test_data=bool(answer["has_test_data"]),
            freeze=tuple(answer["freeze"]),
        )

    def predict(
        self, weights: NDArray[np.float32], inputs: NDArray[Any], *, timeout_s: float = 180.0
    ) -> NDArray[Any]:
        """Return the model's outputs ``(n, ...)`` for inputs ``(n, ...)``; raises as `describe`."""
        message = {"weights": weights.astype("<f4", copy=False).tobytes(), "inputs": pack_array(inputs)}
        return unpack_array(self._ask("predict", message, timeout_s=timeout_s)["outputs"])

    def template(self, *, seed: int = 0, timeout_s: float = 600.0) -> bytes:
        """Return the ONNX template of the task's model, built after seeding torch; raises as `describe`.

        The template holds the model's layout and first weights.
        """
        return bytes(self._ask("template", {"seed": seed}, timeout_s=timeout_s)["template"])

    def test_data(self, *, timeout_s: float = 180.0) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return the task's test (inputs, targets), or None when it has none; raises as `describe`."""
        answer = self._ask("test_data", {}, timeout_s=timeout_s)
        if answer["inputs"] is None:
            return None
        return unpack_array(answer["inputs"]), unpack_array(answer["targets"])

    def start_rows(self, *, most: int, most_bytes: int) -> queue.SimpleQueue[Any]:
        """Ask for some of this client's samples, and do not wait: the trainer's frame comes on the queue.

        Parameters
        ----------
        most, most_bytes
            How many samples, and how many bytes of them, at most; they are evenly spread.

        Returns
        -------
        queue.SimpleQueue
            Gets a map with ``result`` (``inputs``, ``targets``, ``metric``) or ``failed``, or the
            `TrainerCrashed` that has come between.

        Raises
        ------
        TrainerCrashed
            The process cannot be started.
        """
        child = self._running()
        self._number += 1
        return child.send(self._number, {"op": "rows", "most": most, "most_bytes": most_bytes})

    def held_out(self, share: float, *, timeout_s: float = 180.0) -> HeldOut | None:
        """Return what this device does not train on, or None where that is nothing; raises as `describe`.

        It is what the task holds out itself, else this share of the data, the same as for personal models.
        """
        answer = self._ask("held_out", {"share": share}, timeout_s=timeout_s)
        if answer["inputs"] is None:
            return None
        return HeldOut(
            inputs=unpack_array(answer["inputs"]),
            targets=unpack_array(answer["targets"]),
            by_task=bool(answer["by_task"]),
        )

    def start_train(self, request: TrainRequest, *, as_client: tuple[str, Path | None] | None = None) -> None:
        """Begin to train; what comes of it is put into `events`.

        A training that is still under way is cancelled.

        Parameters
        ----------
        request
            What to do.
        as_client
            Name and data of another client, in whose place this is done; for simulations.

        Raises
        ------
        TrainerCrashed
            The process cannot be started, or died just now.
        """
        self.cancel()
        child = self._running()
        self._number += 1
        child.send_training(self._number, request, layout=self._layout, as_client=as_client)

    def cancel(self) -> None:
        """Stop the training that is under way: nothing of it is in `events` any more, nor will be."""
        if self._child is not None:
            self._child.cancel()
        with self.events.mutex:
            kept = [event for event in self.events.queue if not isinstance(event, EVENTS)]
            self.events.queue.clear()
            self.events.queue.extend(kept)

    def stop(self) -> None:
        """End the process and give its memory back; the next request starts another one."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def close(self) -> None:
        """End the process. May be called twice."""
        self.stop()

    def _running(self) -> TrainerLife:
        if self._child is not None and not self._child.alive:
            self.stop()
        if self._child is None:
            command = list(self._command)
            if threading.current_thread() is threading.main_thread():
                # The kernel sends this death signal when the *thread* that started the child ends.
                command.append("--die-with-parent")
            self._child = TrainerLife(command, environment=self._environment, events=self.events)
        return self._child

    def _ask(self, operation: str, content: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        child = self._running()
        self._number += 1
        answers = child.send(self._number, {"op": operation, **content})
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            # What it hangs in, it would hang in for the next request too.
            self.stop()
            raise TrainerTimeout(
                f"the trainer did not answer '{operation}' within {timeout_s:g} s: "
                "is load_data or build_model waiting for something?",
                kind="TrainerTimeout",
            ) from None
        if isinstance(answer, TrainerCrashed):
            raise answer
        if "failed" in answer:
            kind, reason = str(answer["failed"]["kind"]), str(answer["failed"]["reason"])
            raise _KINDS[kind](reason) if kind in _KINDS else TrainerFailed(reason, kind=kind)
        return dict(answer["result"])
