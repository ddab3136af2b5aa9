"""A small matrix product with two threads, in a child process: a crash there becomes a sentence here."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow_devices.check import Check

# 256 x 256 is large enough that the BLAS libraries really split the work between their threads.
_SCRIPT = """
import time
start = time.monotonic()
import torch
torch.set_num_threads(2)
loaded = time.monotonic()
ones = torch.ones(256, 256)
product = ones @ ones
assert bool((product == 256).all()), "wrong product"
print("torch-trial", torch.__version__, round(loaded - start, 2), round(time.monotonic() - loaded, 3))
"""
# -P: the folder that the command was started in must not lend its own torch.py.
TRIAL_COMMAND = (sys.executable, "-P", "-c", _SCRIPT)
_CRASH_REMEDY = "Install a build of torch for this processor; on a Raspberry Pi that is torch 2.9.1."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How a child process ended.

    Attributes
    ----------
    returncode : int or None
        As `subprocess` has it (negative: killed by that signal); None when it did not start or not end in
        time.
    stdout, stderr : str
        What it wrote.
    failure : str
        Why there is no return code; empty when there is one.
    """

    returncode: int | None
    stdout: str = ""
    stderr: str = ""
    failure: str = ""


def run_trial(command: Sequence[str] = TRIAL_COMMAND, *, timeout_s: float = 120.0) -> TrialOutcome:
    """Run a child process to its end; never raises, and leaves no process behind.

    The default timeout allows for a cold import of torch from an SD card.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TrialOutcome(returncode=None, failure=f"it did not end within {timeout_s:g} s")
    except (OSError, ValueError) as error:
        return TrialOutcome(returncode=None, failure=f"it could not be started ({error})")
    return TrialOutcome(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def judge_trial(outcome: TrialOutcome) -> Check:
    """Turn the end of the child process into a check named ``torch-trial``."""
    ok, detail, remedy = _judge(outcome)
    return Check(name="torch-trial", ok=ok, detail=detail, remedy=remedy)


def signal_name(number: int) -> str:
    """Return ``SIGILL`` for 4, and ``signal 99`` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _judge(outcome: TrialOutcome) -> tuple[bool | None, str, str]:
    if outcome.returncode is None:
        return (
            False,
            f"torch was tried in a child process, and {outcome.failure}.",
            "Try again when the device is idle; if it hangs again, install another build of torch.",
        )
    if outcome.returncode < 0:
        return _judge_signal(-outcome.returncode)
    for line in outcome.stdout.splitlines():
        words = line.split()
        if outcome.returncode == 0 and len(words) == 4 and words[0] == "torch-trial":
            return True, f"torch {words[1]} loads in {words[2]} s and multiplies with two threads.", ""
    last = (outcome.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
    if "No module named 'torch'" in last:
        return None, "torch is not installed.", ""
    return False, f"torch fails in a child process: {last}", _CRASH_REMEDY


def _judge_signal(number: int) -> tuple[bool | None, str, str]:
    name = signal_name(number)
    if name == "SIGILL":
        return (
            False,
            "torch dies of an illegal instruction (SIGILL) as it loads or multiplies.",
            _CRASH_REMEDY,
        )
    if name == "SIGKILL":
        return (
            False,
            "the system killed torch while it was loading (SIGKILL), most likely for want of memory.",
            "Free memory or add swap; loading torch alone takes about 220 MiB.",
        )
    return False, f"torch dies with {name} as it loads or multiplies.", _CRASH_REMEDY
