"""Commands that load foreign models run in a child: a model that kills its process ends in a sentence.

onnx and onnxruntime are C++. A graph that is malformed on purpose can abort the process that reads it, before
any Python could raise an error. A fork at the very beginning costs a millisecond and no second start.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from hedgerow.exit_codes import ExitCode

# Of the machine's memory, so much is for one command: a graph of 100 bytes can ask for terabytes.
_MEMORY_SHARE = 0.9
# These begin threads, which do not come along in a fork.
_THREADED = ("onnx", "onnxruntime", "torch")
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL)


def can_fork() -> bool:
    """Say whether nothing has begun a thread yet, as at the start of a command."""
    return threading.active_count() == 1 and not any(name in sys.modules for name in _THREADED)


def guarded(command: str, run: Callable[[], int]) -> int:
    """Run a command in a child process, and return its exit code.

    Parameters
    ----------
    command : str
        Its name, for the sentence.
    run : callable
        The command.

    Returns
    -------
    int
        That of the command; `ExitCode.USAGE`, with a sentence on stderr, where the child has crashed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = int(ExitCode.BUG)
        try:
            _limit_memory()
            code = run()
        except SystemExit as wish:
            code = wish.code if isinstance(wish.code, int) else code
        except BaseException:  # noqa: BLE001  # the process's top: a bug of ours
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: what the parent has registered for its own end is not ours.
            os._exit(code)
    # Ctrl-C in a terminal reaches the child by itself; all else is passed on.
    signal.signal(signal.SIGTERM, lambda number, _: _pass_on(child, number))
    if os.isatty(sys.stdin.fileno()):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGINT, lambda number, _: _pass_on(child, number))
    code = os.waitstatus_to_exitcode(_wait(child))
    if code >= 0:
        return code
    number = signal.Signals(-code)
    if number in _CRASHES:
        return _say(
            command,
            f"a model file makes the library that reads it crash ({number.name}): it is malformed, perhaps "
            "on purpose; nothing was written",
        )
    if number == signal.SIGKILL:
        return _say(command, "the process was killed: there is not enough memory for this model")
    return _say(command, f"the process was ended by {number.name}", ExitCode.INTERRUPTED)


def _wait(child: int) -> int:
    while True:
        try:
            return os.waitpid(child, 0)[1]
        except InterruptedError:
            continue


def _pass_on(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return  # it has just ended


def _limit_memory() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = int(_MEMORY_SHARE * pages)
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(command: str, sentence: str, code: ExitCode = ExitCode.USAGE) -> int:
    print(f"hedgerow {command}: {sentence}", file=sys.stderr)
    return int(code)
