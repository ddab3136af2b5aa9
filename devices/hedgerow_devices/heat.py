"""Heat, throttling and battery as the kernel and the Raspberry Pi firmware tell them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from hedgerow_devices.kernel_files import list_folder, read_int, read_text

# The Raspberry Pi firmware's word: bits 0-3 are now, bits 16-19 the same since boot.
THROTTLE_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_NOW_MASK = 0b1111
_CPU_ZONES = ("cpu", "soc", "x86_pkg", "package")
_PLAUSIBLE_C = (-40.0, 150.0)  # a broken or sleeping sensor answers 0 K, -274 C or 2**31


def read_temperature_c(root: Path = Path("/")) -> float | None:
    """Return the processor's temperature in degrees Celsius, or None when no sensor tells it.

    The hottest zone whose type names a processor wins; with none named so, zone 0 counts.
    """
    named: list[float] = []
    first: float | None = None
    for zone in list_folder(root / "sys/class/thermal"):
        if not zone.name.startswith("thermal_zone"):
            continue
        raw = read_int(zone / "temp")
        if raw is None or not _PLAUSIBLE_C[0] < raw / 1000 < _PLAUSIBLE_C[1]:
            continue
        if zone.name == "thermal_zone0":
            first = raw / 1000
        kind = (read_text(zone / "type") or "").lower()
        if any(word in kind for word in _CPU_ZONES):
            named.append(raw / 1000)
    return max(named) if named else first


def read_throttle_word(
    root: Path = Path("/"), *, firmware: Callable[[], str | None] | None = None
) -> int | None:
    """Return the Raspberry Pi's throttle word, or None on other machines.

    Parameters
    ----------
    root : Path
        Where ``sys`` is.
    firmware : callable, optional
        Returns the text of ``vcgencmd get_throttled`` (``throttled=0x50005``); asked when the kernel has no
        file for it. By default the command itself is run, on the real root only.
    """
    text = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None:
        ask = firmware or (_ask_vcgencmd if root == Path("/") else _ask_nobody)
        text = ask()
    if text is None:
        return None
    try:
        return int(text.strip().removeprefix("throttled="), 16)
    except ValueError:
        return None


def throttle_reasons(word: int | None) -> tuple[str, ...]:
    """Return what holds the processor back at this moment, in words; empty when nothing does.

    >>> throttle_reasons(0x50005)
    ('under-voltage', 'throttled')
    """
    now = (word or 0) & _NOW_MASK
    return tuple(name for bit, name in THROTTLE_BITS.items() if now >> bit & 1)


def read_battery(root: Path = Path("/")) -> tuple[float, bool] | None:
    """Return (charge in percent 0-100, whether it is discharging) of the emptiest battery, None without one.

    Batteries of attached devices (a mouse, a headset: ``scope`` is Device) do not count.
    """
    found: list[tuple[float, bool]] = []
    for supply in list_folder(root / "sys/class/power_supply"):
        charge = read_int(supply / "capacity")
        if (
            read_text(supply / "type") != "Battery"
            or read_text(supply / "scope") == "Device"
            or charge is None
        ):
            continue
        found.append((float(min(100, max(0, charge))), read_text(supply / "status") == "Discharging"))
    return min(found) if found else None


def _ask_vcgencmd() -> str | None:
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def _ask_nobody() -> None:
    return None
