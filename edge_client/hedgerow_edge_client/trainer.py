"""The trainer: a child process that holds torch, the user's code and the user's data.

``python -m hedgerow_edge_client.trainer TASK --data DIR --client NAME --threads N``. Requests come in on
the original stdin and answers go out on the original stdout, as frames (see `trainer_frames`); what the
user's code prints goes to stderr. The process ends when stdin does, at once and whatever it is doing.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from hedgerow_edge_client.errors import FrameFault, TrainingCancelled
from hedgerow_edge_client.requests import Progress, TrainRequest
from hedgerow_edge_client.task import is_out_of_memory
from hedgerow_edge_client.trainer_frames import read_frame, write_frame

PROGRESS_PAUSE_S = 0.2
# In a simulation one trainer serves many clients, and keeps the data of so many.
MAX_BENCHES = 64
_PR_SET_PDEATHSIG = 1


class Inbox:
    """Reads requests in a thread of its own, so that a cancellation is seen while training runs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled = 0
        threading.Thread(target=self._read, name="trainer-inbox", daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for a request."""
        return self._requests.get()

    def is_cancelled(self, number: int) -> bool:
        """Return whether the request of this number is not wanted any more."""
        return number <= self._cancelled

    def _read(self) -> None:
        while True:
            try:
                message = read_frame(self._stream)
            except (FrameFault, OSError):
                message = None
            if message is None:
                # The client is gone or done with us. There is nothing to save, and nobody to tell.
                os._exit(0)
            if message.get("op") == "cancel":
                self._cancelled = max(self._cancelled, int(message.get("id", 0)))
            else:
                self._requests.put(message)


class Outbox:
    """Writes answers; progress not more often than somebody can look at it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._last_progress = -PROGRESS_PAUSE_S

    def answer(self, number: int, content: dict[str, Any]) -> None:
        """Send the answer to request `number`."""
        write_frame(self._stream, {"id": number, **content})

    def progress(self, number: int, progress: Progress) -> None:
        """Send where training stands, unless it was sent a moment ago."""
        last = progress.epoch == progress.epochs and progress.batch == progress.batches
        if last or time.monotonic() - self._last_progress >= PROGRESS_PAUSE_S:
            self._last_progress = time.monotonic()
            self.answer(number, {"progress": asdict(progress)})


def main(argv: list[str] | None = None) -> None:
    """Serve requests until stdin ends; never returns."""
    parser = argparse.ArgumentParser(prog="python -m hedgerow_edge_client.trainer")
    parser.add_argument("task", type=Path)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--client", default="client")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args(argv)
    # Ctrl-C in a terminal reaches the whole group; the client decides when its trainer ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.die_with_parent:
        _die_with_parent()
    source, sink = _take_pipes()
    inbox, outbox = Inbox(source), Outbox(sink)
    benches: dict[tuple[str, Path | None], Any] = {}
    while True:
        message = inbox.next()
        number = int(message["id"])
        try:
            whose = _whose(message, options)
            if whose not in benches:
                # Only here is torch loaded: if that kills us, there is a request to answer for.
                from hedgerow_edge_client.workbench import Workbench

                if len(benches) >= MAX_BENCHES:
                    del benches[next(iter(benches))]
                client, data = whose
                benches[whose] = Workbench(options.task, data=data, client=client, threads=options.threads)
            result = _operate(benches[whose], message, inbox=inbox, outbox=outbox)
            outbox.answer(number, {"result": result})
            del result
            _give_memory_back()
        except TrainingCancelled:
            outbox.answer(number, {"cancelled": True})
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                os._exit(0)
            outbox.answer(number, _failure(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the loop's top: nothing goes unanswered
            outbox.answer(number, _failure(error))


def _whose(message: dict[str, Any], options: argparse.Namespace) -> tuple[str, Path | None]:
    """Return the client that a request is for, and its data."""
    if "client" not in message:
        return options.client, options.data
    data = message.pop("data")
    return str(message.pop("client")), None if data is None else Path(data)


def _operate(bench: Any, message: dict[str, Any], *, inbox: Inbox, outbox: Outbox) -> dict[str, Any]:
    number, operation = int(message["id"]), message["op"]
    if operation == "train":
        return dict(
            bench.train(
                message["layout"],
                TrainRequest.from_wire(message["request"]),
                on_progress=lambda progress: outbox.progress(number, progress),
                should_stop=lambda: inbox.is_cancelled(number),
            )
        )
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "describe": bench.describe,
        "predict": bench.predict,
        "template": bench.template,
        "test_data": bench.test_data,
        "held_out": bench.held_out,
        "rows": bench.rows,
    }
    arguments = {name: value for name, value in message.items() if name not in ("id", "op")}
    return operations[operation](**arguments)


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the frame for an error; one that nobody foresaw also leaves its traceback on stderr."""
    kind, reason = type(error).__name__, str(error) or type(error).__name__
    if is_out_of_memory(error):
        kind, reason = "MemoryError", "not enough memory: use a smaller batch_size or a smaller model"
    elif not _is_ours(error):
        traceback.print_exception(error, file=sys.stderr)
        reason = f"unexpected {kind}: {reason.splitlines()[0]:.300}"
    # A path in the message may hold bytes that are no UTF-8.
    return {"failed": {"kind": kind, "reason": reason.encode("utf-8", "replace").decode()}}


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("hedgerow_")


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for ourselves; the user's code gets nothing to read and stderr to print to."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return source, sink


def _give_memory_back() -> None:
    """Return to the system what the C library has kept for the next batch; there is none for a while."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not glibc


def _die_with_parent() -> None:
    # Belt and braces: stdin's end is noticed by a thread, which native code can hold up; this is the kernel.
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux


if __name__ == "__main__":
    main()
