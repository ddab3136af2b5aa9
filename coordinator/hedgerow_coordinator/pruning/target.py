"""Targets: what the pruned model must fit into. Pruning goes on until what is measured fits."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace

from hedgerow_coordinator.pruning.reaction import Watch

# What is measured, in words, by the key that bounds it.
MEASURES: Mapping[str, str] = {
    "uplink_bytes": "the largest update of a device has {value:,.0f} bytes of {bound:,.0f}",
    "file_bytes": "the exported file has {value:,.0f} bytes of {bound:,.0f}",
    "zip_bytes": "the exported file in a zip has {value:,.0f} bytes of {bound:,.0f}",
    "latency_ms": "one input takes {value:.3g} ms of {bound:g} ({how})",
    "memory_mib": "the runtime takes {value:.1f} MiB of {bound:g} for the exported model",
}
# What single zeros do not change: whole channels do.
OF_CHANNELS = ("file_bytes", "latency_ms", "memory_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a plan's ``[pruning.target]`` asks for: bounds, all of which must hold.

    Parameters
    ----------
    uplink_bytes : float or None
        Of the largest update that a device has sent in a round, with what was asked besides.
    devices : str
        Pattern of the names of the devices whose updates count for `uplink_bytes`.
    file_bytes, zip_bytes : float or None
        Of the file that `hedgerow export` writes, as it is and in a zip.
    latency_ms : float or None
        For one input: the median on the gateway by one thread, measured; with `multiply_adds_per_s` an
        estimate for another device.
    multiply_adds_per_s : float or None
        What was measured of the other device.
    memory_mib : float or None
        What onnxruntime takes for the exported model and one input, in a process of its own, on the gateway.

    Raises
    ------
    ValueError
        It makes no sense; the message is a sentence about the table.
    """

    uplink_bytes: float | None = None
    devices: str = "*"
    file_bytes: float | None = None
    zip_bytes: float | None = None
    latency_ms: float | None = None
    multiply_adds_per_s: float | None = None
    memory_mib: float | None = None

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError(f"must bound something: {', '.join(MEASURES)}")
        if self.multiply_adds_per_s is not None and self.latency_ms is None:
            raise ValueError("has multiply_adds_per_s, which estimates latency_ms: set that, too")
        if self.devices != "*" and self.uplink_bytes is None:
            raise ValueError("has devices, whose updates count for uplink_bytes: set that, too")

    @classmethod
    def read(cls, table: Mapping[str, object]) -> Target | None:
        """Read a table of a plan; None for an empty one.

        Raises
        ------
        ValueError
            As the class; or a key is not known, or its value no number above 0.
        """
        if not table:
            return None
        known = [entry.name for entry in fields(cls)]
        values: dict[str, float] = {}
        devices = table.get("devices", "*")
        if not isinstance(devices, str) or not devices:
            raise ValueError(f"must give devices a pattern of names, not {devices!r}")
        for key, value in table.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
                raise ValueError(f"has no key {key}{hint}")
            if key == "devices":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18:
                raise ValueError(f"must give {key} a number above 0, not {value!r}")
            values[key] = float(value)
        return cls(devices=devices, **values)

    @property
    def bounds(self) -> dict[str, float]:
        """What is bounded, by key."""
        found = {key: getattr(self, key) for key in MEASURES}
        return {key: bound for key, bound in found.items() if bound is not None}

    @property
    def of_export(self) -> bool:
        """Whether the exported model is measured."""
        return bool(self.bounds.keys() - {"uplink_bytes"})

    def uplink_of(self, updates: Iterable[tuple[str, int]]) -> dict[str, float]:
        """Return what (client, bytes) of the updates of a round say; nothing where none of them counts."""
        sizes = [size for client, size in updates if fnmatch.fnmatchcase(client, self.devices)]
        return {"uplink_bytes": float(max(sizes))} if sizes and self.uplink_bytes is not None else {}

    def is_met(self, measured: Mapping[str, float]) -> bool | None:
        """Return whether all bounds hold; None where something has not been measured yet."""
        if not self.bounds.keys() <= measured.keys():
            return None
        return all(measured[key] <= bound for key, bound in self.bounds.items())

    def told(self, measured: Mapping[str, float]) -> str:
        """Return what was measured, in words, beside its bounds."""
        how = "measured on this gateway"
        if self.multiply_adds_per_s is not None:
            how = f"estimated at {self.multiply_adds_per_s:.3g} multiply-adds a second"
        return ", ".join(
            MEASURES[key].format(value=measured[key], bound=bound, how=how)
            for key, bound in self.bounds.items()
            if key in measured
        )


def aim(
    watch: Watch, *, target: Target | None, measured: Mapping[str, float], may_fall: bool
) -> tuple[Watch, str]:
    """Decide whether pruning goes on, from what was measured under the current mask.

    Parameters
    ----------
    watch : Watch
    target : Target or None
        None asks for nothing.
    measured : Mapping[str, float]
        By key of `MEASURES`.
    may_fall : bool
        Whether the density can still fall.

    Returns
    -------
    tuple
        The watch from now on, and ``meet``, ``leave`` (it does not fit any more), ``miss`` (nothing can be
        done about it, said once) or nothing where nothing new happens.

    Examples
    --------
    >>> target = Target(uplink_bytes=1000)
    >>> watch, action = aim(Watch(), target=target, measured={"uplink_bytes": 990.0}, may_fall=True)
    >>> action, watch.stays
    ('meet', True)
    >>> aim(watch, target=target, measured={"uplink_bytes": 1001.0}, may_fall=True)[1]
    'leave'
    """
    is_met = None if target is None else target.is_met(measured)
    if is_met is None:
        return watch, ""
    if is_met:
        return replace(watch, met=True, missed=False), "" if watch.met else "meet"
    left = replace(watch, met=False)
    if not may_fall and not watch.missed:
        return replace(left, missed=True), "miss"
    return left, "leave" if watch.met else ""


def target_event(
    action: str, *, target: Target | None, measured: Mapping[str, float], density: float, why: str
) -> tuple[tuple[str, str], ...]:
    """Return the event of what `aim` has decided; `why` says what keeps the density where it is."""
    if target is None or not action:
        return ()
    said = target.told(measured)
    sentences = {
        "meet": ("target met", f"{said}: pruning stops at density {density:.4g}"),
        "leave": ("target left", f"{said}: pruning goes on from density {density:.4g}"),
        "miss": ("target missed", f"{said} at density {density:.4g}, and {why}"),
    }
    return (sentences[action],)


def target_rules(
    target: Target | None, *, channels: float, schedule: str, takes_nothing: bool, steps: Collection[str]
) -> tuple[tuple[bool, str], ...]:
    """Return what a target does not go with: (whether it is so, the sentence)."""
    if target is None:
        return ()
    whole = [key for key in OF_CHANNELS if key in target.bounds]
    return (
        (takes_nothing, "must be left out where nothing is pruned"),
        (
            schedule not in steps,
            f"must be left out with schedule {schedule!r}: it needs one that falls step by step, "
            f"{', '.join(sorted(steps))}",
        ),
        (
            bool(whole) and channels == 1,
            f"must not bound {whole[0] if whole else ''} while channels is 1: zeros among the weights change "
            "neither file nor speed nor memory, channels that are gone do; zip_bytes falls with zeros",
        ),
    )
