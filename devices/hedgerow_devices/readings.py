"""How a device feels right now."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hedgerow_devices.heat import read_battery, read_temperature_c, read_throttle_word
from hedgerow_devices.kernel_files import read_text
from hedgerow_devices.memory import MIB, read_memory
from hedgerow_devices.profile import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One look at the device; whatever cannot be read is None.

    Attributes
    ----------
    cores : int
        Processors this process may use.
    temperature_c : float or None
        Temperature of the processor, degrees Celsius.
    throttled : int or None
        The Raspberry Pi's throttle word: bits 0-3 now, 16-19 since boot. `throttle_reasons` puts it in words.
    available_mib : int or None
        Memory that can still be taken without swapping, MiB.
    load : float or None
        Runnable processes, averaged over one minute.
    battery : float or None
        Charge in percent, 0-100; None without a battery.
    discharging : bool
        The battery is what feeds the device.
    disk_free_mib : int or None
        Free space where the state is kept, MiB.
    """

    cores: int = 1
    temperature_c: float | None = None
    throttled: int | None = None
    available_mib: int | None = None
    load: float | None = None
    battery: float | None = None
    discharging: bool = False
    disk_free_mib: int | None = None

    @classmethod
    def take(
        cls,
        root: Path = Path("/"),
        *,
        directory: Path | None = None,
        firmware: Callable[[], str | None] | None = None,
    ) -> "Readings":
        """Read every probe; never raises.

        Parameters
        ----------
        root : Path
            Where ``proc`` and ``sys`` are.
        directory : Path, optional
            Where the state is kept, for the free space; the current folder by default.
        firmware : callable, optional
            See `read_throttle_word`.
        """
        battery = read_battery(root)
        return cls(
            cores=usable_cores(root),
            temperature_c=read_temperature_c(root),
            throttled=read_throttle_word(root, firmware=firmware),
            available_mib=read_memory(root).available_mib,
            load=_load(root),
            battery=None if battery is None else battery[0],
            discharging=battery is not None and battery[1],
            disk_free_mib=free_mib(directory or Path()),
        )


def free_mib(directory: Path) -> int | None:
    """Return the free space in MiB at a folder or at its nearest existing parent; None when unknown."""
    folder = existing_folder(directory)
    try:
        return None if folder is None else shutil.disk_usage(folder).free // MIB
    except OSError:
        return None


def existing_folder(path: Path) -> Path | None:
    """Return a folder or its nearest parent that exists; None when not even the current folder does."""
    try:
        whole = path.absolute()
    except OSError:  # the current folder was deleted
        return None
    # os.path.exists is False where Path.exists raises: a parent that may not be entered.
    return next((folder for folder in (whole, *whole.parents) if os.path.exists(folder)), None)


def _load(root: Path) -> float | None:
    words = (read_text(root / "proc/loadavg") or "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None
