"""Child processes that do not outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
# Loaded here and not between fork and exec, where a lock that another thread held stays shut for ever.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; for ``preexec_fn``.

    Linux only (prctl(2), PR_SET_PDEATHSIG); elsewhere nothing happens. A later change of user would undo it.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_child(process: subprocess.Popen[bytes], *, timeout_s: float = 3.0) -> None:
    """End a child that leads its own process group: politely, and after `timeout_s` with all of its group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
