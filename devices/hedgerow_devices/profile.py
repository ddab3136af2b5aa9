"""What a device is: facts that do not change while it runs, small enough for a birth message."""

import dataclasses
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from hedgerow_devices.kernel_files import read_text
from hedgerow_devices.memory import read_memory

_MAX_TEXT = 64  # these strings travel in every presence message


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a device is.

    Attributes
    ----------
    machine : str
        Board or product, such as ``Raspberry Pi 4 Model B Rev 1.4``; empty when unknown.
    arch : str
        The kernel's name of the architecture: ``aarch64``, ``x86_64``, ``armv7l``.
    bits : int
        Pointer size of this Python. A 64-bit kernel often carries a 32-bit system on a Raspberry Pi.
    cores : int
        Processors that this process may use, at least 1.
    ram_mib : int or None
        Memory in MiB, bounded by a container's limit.
    os, python : str
        Name of the system, and version of Python.
    """

    machine: str
    arch: str
    bits: int
    cores: int
    ram_mib: int | None
    os: str
    python: str

    @classmethod
    def read(cls, root: Path = Path("/")) -> "Profile":
        """Read the profile of this device; never raises."""
        return cls(
            machine=_machine(root)[:_MAX_TEXT],
            arch=platform.machine(),
            bits=struct.calcsize("P") * 8,
            cores=usable_cores(root),
            ram_mib=read_memory(root).total_mib,
            os=_system(root)[:_MAX_TEXT],
            python=platform.python_version(),
        )

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the facts as JSON scalars, for a presence message."""
        return dataclasses.asdict(self)


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many processors this process may use, at least 1: affinity and a container's quota count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # "150000 100000": microseconds of processor time in every so many microseconds; "max" is no limit.
    words = (read_text(root / "sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
        cores = min(cores, -(-int(words[0]) // int(words[1])))
    return max(1, cores)


def _machine(root: Path) -> str:
    for name in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        text = read_text(root / name)
        if text:
            return text
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("Model", "model name") and value.strip():
            return value.strip()
    return ""


def _system(root: Path) -> str:
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME" and value.strip("\"'"):
            return value.strip("\"'")
    return f"{platform.system()} {platform.release()}".strip()
