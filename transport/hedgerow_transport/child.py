"""Child processes that do not outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1
# Loaded here and not between fork and exec, where a lock that another thread held stays shut for ever.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; for ``preexec_fn``.

    Linux only (prctl(2), PR_SET_PDEATHSIG); elsewhere nothing happens. A later change of user would undo it.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn_child(
    command: Sequence[str],
    *,
    output: IO[bytes] | None,
    user: pwd.struct_passwd | None = None,
    handles: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that ends with the thread that started it, in a process group of its own.

    Parameters
    ----------
    command : sequence of str
    output : file or None
        Where its stdout and stderr go; None leaves them ours.
    user : pwd.struct_passwd, optional
        As whom it runs; by default as we do.
    handles : sequence of int
        Descriptors that it inherits.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # Of its own group, so that Ctrl-C in a terminal lets the parent end it in good order.
        process_group=0,
        preexec_fn=die_with_parent,
        pass_fds=tuple(handles),
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
    )


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
