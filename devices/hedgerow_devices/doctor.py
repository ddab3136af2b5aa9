"""Whether a machine can be a device: checks as values. None of them raises."""

import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hedgerow_devices.check import Check
from hedgerow_devices.matrix_trial import judge_trial, run_trial
from hedgerow_devices.memory import read_memory
from hedgerow_devices.profile import Profile
from hedgerow_devices.readings import existing_folder, free_mib
from hedgerow_devices.torch_build import TorchFacts, installed_torch, torch_verdict

OLDEST_PYTHON = (3, 11)
# Training a small model: torch takes 220 MiB, the client and its state the rest.
LEAST_MEMORY_MIB, GOOD_MEMORY_MIB = 300, 600
LEAST_DISK_MIB, GOOD_DISK_MIB = 100, 500
_FIRST_PLAUSIBLE_YEAR = 2025


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Check Python's version: onnxruntime has no wheels before 3.11."""
    text = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return Check(
            name="python",
            ok=False,
            detail=f"Python {text} is too old: Hedgerow and onnxruntime need 3.11.",
            remedy="Install Python 3.11 or later; Raspberry Pi OS 12 (bookworm) brings 3.11.",
        )
    return Check(name="python", ok=True, detail=f"Python {text}.")


def check_architecture(arch: str, *, bits: int) -> Check:
    """Check the processor and the width of the system that runs on it."""
    if bits == 32:
        return Check(
            name="architecture",
            ok=False,
            detail=f"32-bit systems (kernel: {arch}) are unsupported: numpy, onnx and torch have no wheels.",
            remedy="Install the 64-bit operating system; every Raspberry Pi from the 3 on can run it.",
        )
    if arch in ("x86_64", "aarch64", "AMD64", "arm64", "ARM64"):
        return Check(name="architecture", ok=True, detail=f"{arch}, 64 bits.")
    return Check(
        name="architecture",
        ok=None,
        detail=f"Hedgerow was never tried on {arch or 'an unknown processor'}.",
        remedy="It may work if numpy, torch and onnxruntime can be installed.",
    )


def check_torch(facts: TorchFacts) -> Check:
    """Check which build of torch is installed, without importing it."""
    return torch_verdict(facts)


def check_torch_trial(*, timeout_s: float = 120.0) -> Check:
    """Check that torch multiplies matrices with two threads, in a child process."""
    if installed_torch()[0] is None:
        return Check(name="torch-trial", ok=None, detail="torch is not installed, so it was not tried.")
    return judge_trial(run_trial(timeout_s=timeout_s))


def check_threads(cores: int, *, environ: Mapping[str, str] | None = None) -> Check:
    """Check that training leaves a core free: more threads than cores make every thread slower."""
    asked = (environ or {}).get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > cores:
        return Check(
            name="threads",
            ok=None,
            detail=f"OMP_NUM_THREADS is {asked}, the cores are {cores}: threads wait for each other.",
            remedy=f"Unset OMP_NUM_THREADS, or set it to {max(1, cores - 1)}.",
        )
    if cores == 1:
        return Check(
            name="threads",
            ok=None,
            detail="One core: training competes with everything else on this device.",
            remedy="Expect long rounds; give the run a generous deadline.",
        )
    return Check(name="threads", ok=True, detail=f"{cores} cores; training takes {cores - 1} of them.")


def check_memory(available_mib: int | None) -> Check:
    """Check the memory that a training process could take now."""
    if available_mib is None:
        return Check(name="memory", ok=None, detail="The free memory cannot be read on this system.")
    detail = f"{available_mib} MiB free."
    if available_mib >= GOOD_MEMORY_MIB:
        return Check(name="memory", ok=True, detail=detail)
    return Check(
        name="memory",
        ok=None if available_mib >= LEAST_MEMORY_MIB else False,
        detail=f"{detail} Training a small model takes about {LEAST_MEMORY_MIB} MiB.",
        remedy="Stop other programs or add swap; a smaller batch size helps too.",
    )


def check_disk(directory: Path) -> Check:
    """Check that the state folder can be written and has room."""
    nearest = existing_folder(directory)
    if nearest is None or not os.access(nearest, os.W_OK):
        return Check(
            name="disk",
            ok=False,
            detail=f"{nearest or directory} cannot be written.",
            remedy="Choose another folder for the state, or change its owner.",
        )
    free = free_mib(nearest)
    if free is None:
        return Check(name="disk", ok=None, detail=f"The free space at {nearest} cannot be read.")
    if free >= GOOD_DISK_MIB:
        return Check(name="disk", ok=True, detail=f"{free} MiB free at {nearest}.")
    return Check(
        name="disk",
        ok=None if free >= LEAST_DISK_MIB else False,
        detail=f"Only {free} MiB free at {nearest}.",
        remedy="Delete what is not needed there, or choose another folder for the state.",
    )


def check_clock(now_s: float, *, root: Path = Path("/")) -> Check:
    """Check the clock: a Raspberry Pi has no battery-backed one and starts in the past without a network.

    Parameters
    ----------
    now_s : float
        Seconds since 1970, as `time.time` tells them.
    root : Path
        Where ``run/systemd/timesync`` is.
    """
    try:
        moment = time.gmtime(now_s)
    except (OverflowError, OSError, ValueError):
        return Check(
            name="clock", ok=False, detail=f"The clock tells {now_s!r} seconds.", remedy="Set the clock."
        )
    date = time.strftime("%Y-%m-%d %H:%M UTC", moment)
    if moment.tm_year < _FIRST_PLAUSIBLE_YEAR:
        return Check(
            name="clock",
            ok=False,
            detail=f"The clock says {date}, which is in the past.",
            remedy="Connect the device to a time server (timedatectl set-ntp true) or set the clock.",
        )
    service = root / "run/systemd/timesync"
    if os.path.exists(service / "synchronized"):
        return Check(name="clock", ok=True, detail=f"{date}, synchronised.")
    if os.path.exists(service):
        return Check(
            name="clock",
            ok=None,
            detail=f"{date}, but the time service has not reached a server yet.",
            remedy="Check the network; timedatectl timesync-status says more.",
        )
    return Check(name="clock", ok=True, detail=f"{date}; no time service tells whether it is synchronised.")


def check_package(name: str, *, remedy: str, needed_for: str) -> Check:
    """Check that a package is installed, without importing it."""
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        return Check(name=name, ok=None, detail=f"Not installed; needed {needed_for}.", remedy=remedy)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a system package without Python metadata
        version = "of unknown version"
    return Check(name=name, ok=True, detail=f"{name} {version}.")


def run_checks(
    *,
    root: Path = Path("/"),
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
    now_s: float | None = None,
    trial_timeout_s: float = 120.0,
) -> tuple[Check, ...]:
    """Run every check of this package; takes as long as one import of torch.

    Parameters
    ----------
    root : Path
        Where ``proc``, ``sys`` and ``run`` are.
    directory : Path, optional
        Where the state will be kept; the current folder by default.
    environ : mapping, optional
        The environment, for ``OMP_NUM_THREADS``.
    now_s : float, optional
        Seconds since 1970; the clock's by default.
    trial_timeout_s : float
        How long the trial of torch may take.
    """
    profile = Profile.read(root)
    facts = TorchFacts.read(root)
    verdict = check_torch(facts)
    gateway = "pip install 'hedgerow[gateway]'"
    return (
        check_python(),
        check_architecture(profile.arch, bits=profile.bits),
        verdict,
        check_torch_trial(timeout_s=trial_timeout_s),
        check_package("onnxruntime", remedy=gateway, needed_for="to evaluate and to run exported models"),
        check_package("onnx", remedy=gateway, needed_for="to fill and to check exported models"),
        check_threads(profile.cores, environ=environ),
        check_memory(read_memory(root).available_mib),
        check_disk(directory or Path()),
        check_clock(time.time() if now_s is None else now_s, root=root),
    )
