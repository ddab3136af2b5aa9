"""A device's own model: the weights that it holds, thinned by its own rule when it is good enough here.

The rule is that of LotteryFL (Li 2020, algorithm 1) for weights, and of Hermes (Li 2021) for channels: where
the metric on data that is not trained on has reached a threshold, and the model is not thin enough yet, the
smallest of what is left goes. The shared weights under the device's mask are its personal model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import ChannelSet, Layout, LayoutError, seeded_parameters

Live = NDArray[np.bool_]
Vector = NDArray[np.float32]
_NUMBERS = {"density": 1.0, "channels": 1.0, "share": 0.1, "least": 0.5, "held_out": 0.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalRule:
    """How a device thins its own model.

    Parameters
    ----------
    density
        Live weights over all parameters at which it stops, in (0, 1].
    channels
        Share of each group's channels at which it stops, in (0, 1]; below 1 channels go instead of weights.
    share
        What a change takes of each tensor's live weights, or of each group's channels, in (0, 1).
    least
        The metric on the data that is held out from which on it thins.
    held_out
        Share of the device's samples that are not trained on, 0 to 1 exclusive; the task's `load_held_out`
        goes before it.
    rewind
        Whether a change begins anew from the run's first weights.
    seed
        Of the run's first weights.
    protect
        Tensors that stay whole.
    groups
        The model's channels, as `ChannelSet.to_text` writes them.

    Raises
    ------
    ValueError
        It cannot be carried out here; the message is a sentence.
    """

    density: float = 1.0
    channels: float = 1.0
    share: float = 0.1
    least: float = 0.5
    held_out: float = 0.2
    rewind: bool = False
    seed: int = 0
    protect: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        inside = (
            0 < self.density <= 1
            and 0 < self.channels <= 1
            and 0 < self.share < 1
            and math.isfinite(self.least)
            and 0 <= self.held_out < 1
        )
        if not inside:
            raise ValueError(f"the plan's rule for personal models makes no sense: {self}")

    @classmethod
    def read(cls, told: object, *, seed: int, groups: object = ()) -> PersonalRule | None:
        """Read what a round plan says, as plain data; None where models are not personal.

        Raises
        ------
        ValueError
            It cannot be carried out here.
        """
        if told is None:
            return None
        if not isinstance(told, Mapping):
            raise ValueError("the plan's rule for personal models is no table")
        values: dict[str, Any] = {}
        for name, value in told.items():
            if name in _NUMBERS and isinstance(value, (int, float)) and not isinstance(value, bool):
                values[name] = float(value)
            elif name == "rewind" and isinstance(value, bool):
                values[name] = value
            elif name == "protect":
                values[name] = _texts(value)
            else:
                raise ValueError(f"the plan says '{name}' of personal models, which is not known here")
        return cls(**values, seed=seed, groups=_texts(groups))

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for the trainer's pipe."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return plain | {"protect": list(self.protect), "groups": list(self.groups)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PersonalRule:
        """Read what `to_plain` made."""
        lists = {name: tuple(str(item) for item in plain[name]) for name in ("protect", "groups")}
        return cls(**{**plain, **lists})

    def is_due(self, metric: float | None, *, higher_is_better: bool) -> bool:
        """Return whether the metric on the data that is held out allows to thin."""
        if metric is None:
            return False
        return metric >= self.least if higher_is_better else metric <= self.least

    def thinned(self, weights: Vector, *, live: Live, layout: Layout) -> Live:
        """Return what is left after one change; `live` itself where the model is thin enough.

        Parameters
        ----------
        weights
            Flat vector ``(num_parameters,)``, of the personal model.
        live
            The device's mask, of the same shape.
        """
        if self.channels < 1:
            return self._narrowed(weights, live=live, layout=layout)
        return self._pruned(weights, live=live, layout=layout)

    def first_weights(self, layout: Layout) -> Vector:
        """Return the weights with which the run began.

        Raises
        ------
        ValueError
            The seed does not tell them.
        """
        try:
            return seeded_parameters(layout, seed=self.seed)
        except LayoutError as error:
            raise ValueError(f"the run's first weights cannot be made here: {error}") from error

    def _pruned(self, weights: Vector, *, live: Live, layout: Layout) -> Live:
        target = math.floor(self.density * layout.num_parameters + 1e-6)
        prunable = np.zeros_like(live)
        for spec, start in zip(layout.tensors, layout.offsets, strict=False):
            prunable[start : start + spec.size] = spec.prunable and spec.name not in self.protect
        held = int(np.count_nonzero(live & prunable))
        excess = int(np.count_nonzero(live)) - target
        if excess <= 0 or held == 0:
            return live
        share = min(self.share, excess / held)
        left = live.copy()
        for spec, start in zip(layout.tensors, layout.offsets, strict=False):
            part = slice(start, start + spec.size)
            if prunable[start]:
                places = np.flatnonzero(live[part])
                weakest = np.argsort(np.abs(weights[part][places]), kind="stable")
                left[part][places[weakest[: _count(share, len(places))]]] = False
        return left

    def _narrowed(self, weights: Vector, *, live: Live, layout: Layout) -> Live:
        left = live.copy()
        for text in self.groups:
            group = ChannelSet.parse(text, layout=layout)
            there = group.there(left, layout=layout, protect=self.protect)
            places = np.flatnonzero(there)
            least = max(1, int(self.channels * group.size + 0.5 + 1e-9))
            count = min(max(1, _count(self.share, group.size)), len(places) - least)
            if count <= 0:
                continue
            sizes = group.sizes(np.where(left, weights, np.float32(0)), layout=layout)
            there[places[np.argsort(sizes[places], kind="stable")[:count]]] = False
            left &= group.live(there, layout=layout) | _fixed(layout, protect=self.protect)
        return live if np.array_equal(left, live) else left


def _count(share: float, number: int) -> int:
    return int(share * number + 1e-9)


def _fixed(layout: Layout, *, protect: Sequence[str]) -> Live:
    """Return which entries no mask may take."""
    fixed = ~layout.prunable()
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        if spec.name in protect:
            fixed[start : start + spec.size] = True
    return fixed


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError("the plan has a list for personal models that is none of texts")
    return tuple(value)
