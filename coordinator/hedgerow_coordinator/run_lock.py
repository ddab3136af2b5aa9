"""One coordinator for a run directory: a lock that dies with its process."""

import contextlib
import fcntl
import os
from pathlib import Path

from hedgerow_coordinator.errors import StoreError, StoreLocked


class RunLock:
    """Hold the lock of a run directory from the first moment on.

    The kernel releases it when the process ends, however it ends, so there is no stale lock to clear away.

    Raises
    ------
    StoreLocked
        Another process holds it.
    StoreError
        The file system knows no locks, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}", path=path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = self._read_pid()
            os.close(self._descriptor)
            who = f"process {pid}" if pid else "another process"
            raise StoreLocked(
                f"{who} already coordinates the run in {path.parent}; stop it first", path=path, pid=pid
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise StoreError(f"cannot lock {path}: {error.strerror}", path=path) from error
        # The number is for the message above alone, so a full disk is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go of the lock; the second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_pid(self) -> int | None:
        text = os.pread(self._descriptor, 20, 0)
        return int(text) if text.isdigit() else None
