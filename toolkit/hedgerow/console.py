"""Lines for a person, and the wish of a person to stop."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


def say(sentence: str) -> None:
    """Print one sentence with the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


def stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C or SIGTERM sets; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def wish(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal hands it over
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, wish)
    return stop
