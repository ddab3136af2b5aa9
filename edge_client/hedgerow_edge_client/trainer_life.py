"""One life of the trainer: a process, the thread that writes to it, and the one that reads what it says."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow_edge_client.errors import FrameFault, TrainerCrashed
from hedgerow_edge_client.requests import Progress, TrainRequest, TrainResult
from hedgerow_edge_client.trainer_frames import read_frame, write_frame

_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Training is done."""

    round: int
    result: TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Training ended with an error; the trainer lives.

    Parameters
    ----------
    kind
        Name of the error: ``TaskError``, ``EmptyData``, ``TrainingDiverged``, ``MemoryError``, ...
    reason
        A sentence for a person.
    """

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """The trainer died in training; the next request starts another one."""

    reason: str


TrainerEvent = Progress | Trained | Failed | Crashed
EVENTS = (Progress, Trained, Failed, Crashed)


class TrainerLife:
    """One life of the process: what was asked of it, and the thread that reads its answers."""

    def __init__(self, command: list[str], *, environment: dict[str, str], events: queue.Queue[Any]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._training: tuple[int, int] | None = None  # number of the request, round
        self._closing = False
        self._crash: TrainerCrashed | None = None
        self._write_fault = ""
        try:
            # A group of its own, so that Ctrl-C does not reach it before it can say that it ignores it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
            )
        except OSError as error:
            raise TrainerCrashed(f"the trainer could not be started ({error.strerror or error})") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._read, name="trainer-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="trainer-writer", daemon=True)
        self._reader.start()
        self._writer.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._crash is None and not self._closing

    def send(self, number: int, message: Mapping[str, Any]) -> queue.SimpleQueue[Any]:
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            if self._crash is not None:
                answers.put(self._crash)
                return answers
            self._waiting[number] = answers
        self._outgoing.put({"id": number, **message})
        return answers

    def send_training(
        self,
        number: int,
        request: TrainRequest,
        *,
        layout: bytes | None,
        as_client: tuple[str, Path | None] | None,
    ) -> None:
        with self._lock:
            if self._crash is not None:
                raise self._crash
            self._training = (number, request.round)
        message = {"id": number, "op": "train", "layout": layout, "request": request.to_wire()}
        if as_client is not None:
            name, data = as_client
            message |= {"client": name, "data": None if data is None else str(data)}
        self._outgoing.put(message)

    def cancel(self) -> None:
        with self._lock:
            training, self._training = self._training, None
        if training is not None:
            self._outgoing.put({"id": training[0], "op": "cancel"})

    def stop(self) -> None:
        with self._lock:
            self._closing = True
            self._training = None
        # It ends at the end of its stdin, which the writer closes.
        self._outgoing.put(None)
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._writer.join()
        self._reader.join()
        self._stdout.close()

    def _write(self) -> None:
        """Send what is outgoing; nobody waits for a child that loads torch and reads nothing for seconds."""
        try:
            while (message := self._outgoing.get()) is not None:
                write_frame(self._stdin, message)
        except FrameFault as error:
            self._write_fault = str(error)
            self._process.kill()
        except OSError:
            pass  # a child that is gone is noticed, and told of, by the reader
        # Closing flushes, which fails when the child is gone.
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _read(self) -> None:
        fault = ""
        try:
            while (message := read_frame(self._stdout)) is not None:
                self._take(message)
        except (FrameFault, KeyError, TypeError, ValueError) as error:
            fault = f"it sent something that is no answer ({error})"
            self._process.kill()
        except OSError as error:
            fault = f"its pipe broke ({error})"
            self._process.kill()
        self._ended(fault or self._write_fault, self._process.wait())

    def _take(self, message: dict[str, Any]) -> None:
        number = int(message["id"])
        with self._lock:
            waiting = self._waiting.get(number)
            if waiting is not None:
                del self._waiting[number]
                waiting.put(message)
            elif self._training is not None and self._training[0] == number:
                event = _event(message, round=self._training[1])
                if not isinstance(event, Progress):
                    self._training = None
                if event is not None:
                    self._events.put(event)

    def _ended(self, fault: str, returncode: int) -> None:
        crash = describe_end(returncode, fault=fault)
        if self._closing:
            crash = TrainerCrashed("the trainer was stopped while it was asked something")
        with self._lock:
            self._crash = crash
            if self._training is not None and not self._closing:
                self._events.put(Crashed(reason=str(crash)))
            self._training = None
            for waiting in self._waiting.values():
                waiting.put(crash)
            self._waiting.clear()


def describe_end(returncode: int, *, fault: str = "") -> TrainerCrashed:
    """Return the error for a trainer that ended by itself.

    Parameters
    ----------
    returncode
        As `subprocess` has it: negative when a signal ended it.
    fault
        What we ended it for, when it was us.
    """
    if fault:
        return TrainerCrashed(f"the trainer was stopped: {fault}")
    if returncode >= 0:
        return TrainerCrashed(
            f"the trainer ended with exit code {returncode}: see what it wrote above, or run hedgerow doctor"
        )
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        sentence = (
            "the trainer was killed (SIGKILL), probably out of memory: use a smaller batch_size or model"
        )
    elif name == "SIGILL":
        sentence = "torch crashed on this processor (SIGILL): run hedgerow doctor"
    elif name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT"):
        sentence = f"torch or another native library crashed ({name}): run hedgerow doctor"
    else:
        sentence = f"the trainer was ended from outside ({name})"
    return TrainerCrashed(sentence, signal=name)


def _event(message: Mapping[str, Any], *, round: int) -> TrainerEvent | None:
    if "progress" in message:
        return Progress(**message["progress"])
    if "result" in message:
        return Trained(round=round, result=TrainResult.from_wire(message["result"]))
    if "failed" in message:
        return Failed(kind=str(message["failed"]["kind"]), reason=str(message["failed"]["reason"]))
    return None  # cancelled: whoever cancelled knows
