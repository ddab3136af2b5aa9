"""Memory of the device: what there is and what a process may still take.

A container's limit counts as the device's memory: the kernel kills at that line, whatever the machine has.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from hedgerow_devices.kernel_files import read_int, read_text

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory in MiB; a figure that cannot be found out is None."""

    total_mib: int | None
    available_mib: int | None


def read_memory(root: Path = Path("/")) -> Memory:
    """Read total and available memory: ``/proc/meminfo``, bounded by the control group's limit."""
    total, available = _machine_bytes(root)
    limit, used = _group_bytes(root)
    # Version 1 says "no limit" by a number near 2**63.
    if limit is not None and (total is None or limit < total):
        total = limit
        if used is not None:
            left = max(0, limit - used)
            available = left if available is None else min(available, left)
    return Memory(
        total_mib=None if total is None else total // MIB,
        available_mib=None if available is None else available // MIB,
    )


def _machine_bytes(root: Path) -> tuple[int | None, int | None]:
    text = read_text(root / "proc/meminfo")
    if text is not None:
        found = _meminfo(text)
        return found.get("MemTotal"), found.get("MemAvailable", found.get("MemFree"))
    if root != Path("/"):
        return None, None
    try:  # not Linux
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError, NotImplementedError):
        return None, None
    return int(memory.total), int(memory.available)


def _meminfo(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            found[key.strip()] = int(words[0]) * 1024  # the file says kB and means KiB
    return found


def _group_bytes(root: Path) -> tuple[int | None, int | None]:
    """Return (limit, used) of the control group that a container sees at the top of its tree."""
    group = root / "sys/fs/cgroup"
    for folder, limit_name, used_name in (
        (group, "memory.max", "memory.current"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit = read_int(folder / limit_name)  # the word "max" is no number: no limit
        if limit is not None:
            return limit, read_int(folder / used_name)
    return None, None
