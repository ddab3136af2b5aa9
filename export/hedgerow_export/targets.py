"""Devices that a model is meant for: defaults, not promises."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from hedgerow_export.errors import ExportError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What suits a kind of device.

    Attributes
    ----------
    name : str
    title : str
    threads : int
        For `Runner`: below the number of cores, so that the device stays usable.
    quantize : str
        ``int8`` where the processor multiplies 8-bit numbers faster than floats, else ``none``.
    note : str
        The reason, for a person.
    """

    name: str
    title: str
    threads: int
    quantize: str
    note: str


def find_target(name: str) -> Target:
    """Return the target of a name.

    Raises
    ------
    ExportError
        There is none; the nearest name is suggested.
    """
    if name in TARGETS:
        return TARGETS[name]
    close = difflib.get_close_matches(name, TARGETS, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(TARGETS)}."
    raise ExportError(f"Unknown target {name!r}; {known}")


_NO_DOT = (
    "its cores have no 8-bit dot product: int8 makes the file small, and may be slower; measure it there"
)
_DOT = "its cores have an 8-bit dot product"

TARGETS: dict[str, Target] = {
    "pi4": Target(name="pi4", title="Raspberry Pi 4", threads=3, quantize="none", note=_NO_DOT),
    "pi5": Target(name="pi5", title="Raspberry Pi 5", threads=3, quantize="int8", note=_DOT),
    "zero2w": Target(name="zero2w", title="Raspberry Pi Zero 2 W", threads=2, quantize="none", note=_NO_DOT),
    "phone": Target(name="phone", title="telephone with 64-bit ARM", threads=2, quantize="int8", note=_DOT),
}
