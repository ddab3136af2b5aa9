"""Dynamic pruning: what the measured metric does to the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

# Under this name the mask before a change is remembered, where it may be taken back.
UNDO_MASK = "undo-mask"
# Not a drop: what comes of rounding alone.
_SLACK = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What has been measured, and what came of it; JSON values, kept with each version.

    Parameters
    ----------
    last : float or None
        Metric of this version, larger is better; None where it was not measured.
    best : float or None
        The best of all versions before.
    held : bool
        The mask stays until the metric is back.
    stopped : bool
        The mask stays for good: a change was taken back.
    delay : int
        Rounds in which the mask was held: by so much the schedule is late.
    met : bool
        The mask stays because the model fits the target.
    missed : bool
        It has been said that the target cannot be met.
    sizes : Mapping[str, float]
        What was measured of this version's export.
    """

    last: float | None = None
    best: float | None = None
    held: bool = False
    stopped: bool = False
    delay: int = 0
    met: bool = False
    missed: bool = False
    sizes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_notes(cls, notes: Mapping[str, object]) -> Watch:
        """Read what `to_notes` made; a run from before there was any begins to watch."""
        kept = notes.get("pruning")
        if not isinstance(kept, dict):
            return cls()
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in kept.items() if name in known})

    def to_notes(self) -> dict[str, object]:
        """Return JSON values."""
        return {"pruning": asdict(self)}

    @property
    def stays(self) -> bool:
        """Whether the mask is not to change."""
        return self.held or self.stopped or self.met


def react(watch: Watch, *, tolerance: float, reaction: str, can_revert: bool) -> tuple[Watch, str]:
    """Decide what the next mask may be, from the metric of the current version.

    Parameters
    ----------
    watch : Watch
    tolerance : float
        A drop by more than this below the best counts; 0 is never.
    reaction : str
        ``stop`` or ``revert``.
    can_revert : bool
        Whether there is a change that can be taken back; ``revert`` only holds otherwise.

    Returns
    -------
    tuple
        The watch from now on, and ``hold``, ``resume``, ``revert`` or nothing where nothing new happens.

    Examples
    --------
    >>> watch, action = react(Watch(last=0.8, best=0.9), tolerance=0.05, reaction="stop", can_revert=False)
    >>> action, watch.held
    ('hold', True)
    >>> react(replace(watch, last=0.88), tolerance=0.05, reaction="stop", can_revert=False)[1]
    'resume'
    """
    if tolerance == 0 or watch.last is None or watch.stopped:
        return watch, ""
    last = watch.last
    best = last if watch.best is None else max(watch.best, last)
    watch = replace(watch, best=best)
    fell = best - last > tolerance + _SLACK
    if fell and reaction == "revert" and can_revert:
        return replace(watch, held=False, stopped=True), "revert"
    if fell and not watch.held:
        return replace(watch, held=True), "hold"
    if not fell and watch.held:
        return replace(watch, held=False), "resume"
    return watch, ""
