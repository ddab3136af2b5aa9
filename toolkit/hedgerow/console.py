"""Lines for a person, and the wish of a person to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

# Whoever waits for something that does not come, such as a broker or torch, is interrupted after this time.
PATIENCE_S = 2.0


def say(sentence: str) -> None:
    """Print one sentence with the time of day, at once; a reader that has left is no reason to stop."""
    try:
        print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)
    except BrokenPipeError:
        mute()


def mute() -> None:
    """Send what is still to be printed nowhere: the reader of our output (head, less) has left."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C or SIGTERM sets.

    Where nobody looks at it within `PATIENCE_S`, the main thread gets a `KeyboardInterrupt`. A second Ctrl-C
    ends the process at once.
    """
    stop = _Wish()

    def wish(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal hands it over
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    alarm = signal.getsignal(signal.SIGALRM)
    try:
        yield stop
    finally:
        if stop.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Wish(threading.Event):
    def is_set(self) -> bool:
        found = super().is_set()
        if found:
            # Seen: from here on everything is brought to its end in good order, which takes its time.
            signal.setitimer(signal.ITIMER_REAL, 0)
        return found


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM interrupt, so that temporary folders and child processes are cleared away.

    Ctrl-C is set, too: a shell that starts us in the background may have had SIGINT ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
