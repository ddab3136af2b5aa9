"""Whether a device should train now, and with how many threads: a pure function of its readings."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hedgerow_devices.errors import LimitsError
from hedgerow_devices.heat import throttle_reasons
from hedgerow_devices.readings import Readings

Cause = Literal["", "heat", "throttled", "battery", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a device stops training.

    Attributes
    ----------
    max_temperature_c, resume_temperature_c : float
        Pause at or above the first; after a pause for heat, go on below the second.
    min_battery : float
        Percent, 0-100. Pause below it while the battery feeds the device.
    min_available_mib : int
        Pause while less memory than this can be taken, MiB, at least 0.
    threads : int or None
        Threads for training; None is one fewer than the cores, so that the network and the user keep one.
    retry_s : float
        Seconds until the next look after a pause, > 0.
    """

    max_temperature_c: float = 80.0
    resume_temperature_c: float = 70.0
    min_battery: float = 20.0
    min_available_mib: int = 256
    threads: int | None = None
    retry_s: float = 30.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_temperature_c) and self.max_temperature_c > self.resume_temperature_c):
            raise LimitsError(
                f"max_temperature_c {self.max_temperature_c} must be above "
                f"resume_temperature_c {self.resume_temperature_c}"
            )
        if not 0 <= self.min_battery <= 100:
            raise LimitsError(f"min_battery {self.min_battery} is not a percentage from 0 to 100")
        if self.min_available_mib < 0:
            raise LimitsError(f"min_available_mib {self.min_available_mib} is below 0")
        if self.threads is not None and self.threads < 1:
            raise LimitsError(f"threads {self.threads} is below 1")
        if not (math.isfinite(self.retry_s) and self.retry_s > 0):
            raise LimitsError(f"retry_s {self.retry_s} is not a positive number of seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Go on or pause.

    Attributes
    ----------
    go : bool
        Train.
    threads : int
        Threads to train with, at least 1; meaningful when ``go``.
    reason : str
        One sentence for a person; empty when ``go``.
    retry_s : float
        Seconds until the next look; 0 when ``go``.
    cause : str
        ``heat``, ``throttled``, ``battery`` or ``memory``; empty when ``go``.
    """

    go: bool
    threads: int
    reason: str = ""
    retry_s: float = 0.0
    cause: Cause = ""


@dataclass(frozen=True, slots=True)
class Governor:
    """Decides by its limits. A reading that is None never stops anything: most machines lack most probes."""

    limits: Limits = field(default_factory=Limits)

    def decide(self, readings: Readings, *, previous: Decision | None = None) -> Decision:
        """Return whether to train now.

        Parameters
        ----------
        readings : Readings
            What the probes say.
        previous : Decision, optional
            The decision before this one. After a pause for heat the device must cool to the lower
            temperature first; otherwise it would start and stop at the limit.
        """
        limits = self.limits
        threads = limits.threads or max(1, readings.cores - 1)
        cause, reason = _objection(
            readings, limits, cooling=previous is not None and previous.cause == "heat"
        )
        if cause:
            return Decision(go=False, threads=threads, reason=reason, retry_s=limits.retry_s, cause=cause)
        return Decision(go=True, threads=threads)


def _objection(readings: Readings, limits: Limits, *, cooling: bool) -> tuple[Cause, str]:
    heat = readings.temperature_c
    bound = limits.resume_temperature_c if cooling else limits.max_temperature_c
    if heat is not None and heat >= bound:
        until = limits.resume_temperature_c
        return "heat", f"The processor is at {heat:.1f} °C; training waits until it is below {until:.0f} °C."
    reasons = throttle_reasons(readings.throttled)
    if reasons:
        return (
            "throttled",
            f"The Raspberry Pi reports {' and '.join(reasons)}; training waits until that ends.",
        )
    charge = readings.battery
    if charge is not None and readings.discharging and charge < limits.min_battery:
        return "battery", (
            f"The battery is at {charge:.0f} %; training waits for {limits.min_battery:.0f} % or a charger."
        )
    free = readings.available_mib
    if free is not None and free < limits.min_available_mib:
        return "memory", (
            f"Only {free} MiB of memory are free; training waits for {limits.min_available_mib} MiB."
        )
    return "", ""
