"""Counters of signed messages: ours, which never goes back, and how far those of others have come."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hedgerow_transport.credentials import read_json, write_json
from hedgerow_transport.errors import CredentialsError

WINDOW = 64
_BLOCK = 256
# Between two writes of what was seen: an SD card wears out.
SAVE_PAUSE_S = 30.0
MAX_COUNTER = 2**63


class MessageCounter:
    """Count the messages of a key, over restarts, and in several processes and threads at a time.

    A block of numbers is reserved on disk before the first of it is used. A block begins at the clock's
    milliseconds or later, so that a file that was lost sends the counter forward and not back.

    Parameters
    ----------
    path : Path
        The file; made when it is not there.
    wall_clock : callable
        Returns Unix time.
    """

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._next = self._end = self._least = 0

    def next(self) -> int:
        """Return a number that is larger than every one before.

        Raises
        ------
        CredentialsError
            When the file cannot be read or written.
        """
        with self._lock:
            if self._next >= self._end:
                self._reserve()
            self._next += 1
            return self._next - 1

    def overtake(self, counter: int) -> None:
        """Go on above a number that another process with our key has used."""
        with self._lock:
            if counter >= self._next:
                self._least = max(self._least, counter + 1)
                self._next = self._end

    def _reserve(self) -> None:
        try:
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                clock = int(self._wall_clock() * 1000)
                # What nobody has seen counts as 0.
                start = max(1, self._end, self._least, _read_counter(self._path), clock)
                write_json(self._path, {"next": start + _BLOCK})
            finally:
                os.close(lock)
        except OSError as error:
            raise CredentialsError(
                f"cannot write {self._path} ({error.strerror}): whoever signs counts its messages there; "
                "give this user the right and the room to write in that folder"
            ) from error
        self._next, self._end = start, start + _BLOCK


class ReplayWindow:
    """Say which counters are new (RFC 4303, 3.4.3): each is taken once, at most `WINDOW` below the highest.

    >>> window = ReplayWindow(0)
    >>> [window.take(counter) for counter in (5, 3, 5, 3, 4, 100, 4)]
    [True, True, False, False, True, True, False]
    """

    def __init__(self, highest: int) -> None:
        self.highest = highest
        # Bit i stands for `highest` - i. What came before we began to look counts as seen.
        self._seen = 2**WINDOW - 1

    def take(self, counter: int) -> bool:
        """Say whether a counter is new, and note it."""
        ahead = counter - self.highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & (2**WINDOW - 1) if ahead < WINDOW else 1
            self.highest = counter
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


class SeenCounters:
    """The highest counters that were seen, by source, and the newest time that was signed; kept on disk.

    Parameters
    ----------
    path : Path
        The file.
    keeps : bool
        Whether the file is written; no for whoever only looks on.
    clock : callable
        Returns seconds by a clock that does not jump.

    Raises
    ------
    CredentialsError
        When the file is damaged.
    """

    def __init__(
        self, path: Path, *, keeps: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._keeps = keeps
        self._clock = clock
        self._dirty = False
        self._save_at = clock() + SAVE_PAUSE_S
        self._highest: dict[str, int] = {}
        self.issued = 0
        if path.exists():
            content = read_json(path)
            highest, issued = content.get("highest"), content.get("issued")
            if not isinstance(highest, dict) or type(issued) is not int:
                raise CredentialsError(
                    f"{path} is damaged: delete it, and old messages may be taken once more"
                )
            for source, counter in highest.items():
                if type(counter) is int and 0 <= counter < MAX_COUNTER:
                    self._highest[source] = counter
            self.issued = issued

    def highest(self, source: str) -> int:
        """Return the highest counter of a source; 0 before its first."""
        return self._highest.get(source, 0)

    def note(self, source: str, counter: int) -> None:
        """Note a counter."""
        if counter > self._highest.get(source, 0):
            self._highest[source] = counter
            self._dirty = True

    def note_time(self, issued: int) -> None:
        """Note the time of a signature that was checked."""
        if issued > self.issued:
            self.issued, self._dirty = issued, True

    def tick(self) -> None:
        """Write down what has changed, when it is time."""
        if self._dirty and self._clock() >= self._save_at:
            self.save()

    def save(self) -> None:
        """Write down what has changed. A full disk is no reason to stop: less is known after a restart."""
        if not self._keeps or not self._dirty:
            return
        self._save_at = self._clock() + SAVE_PAUSE_S
        with contextlib.suppress(OSError):
            write_json(self._path, {"highest": self._highest, "issued": self.issued})
            self._dirty = False


def _read_counter(path: Path) -> int:
    if not path.exists():
        return 0
    counter = read_json(path).get("next")
    if type(counter) is not int or not 0 <= counter < MAX_COUNTER:
        raise CredentialsError(f"{path} is damaged: delete it, the clock's time takes its place")
    return counter
