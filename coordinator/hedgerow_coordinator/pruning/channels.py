"""Structured pruning: whole channels, by the dependency groups of the template's graph.

Channels that a residual add or a norm ties together are scored together and go together (Fang et al. 2023). A
channel goes by its weights in all prunable tensors: the rows that make it and the columns that read it. Its
bias and its norm stay in the layout; on export the channel is taken out of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning.evidence import Evidence
from hedgerow_coordinator.pruning.selection import largest

if TYPE_CHECKING:
    from hedgerow_export import ChannelGroup, ChannelGroups

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelScore:
    """A score of channels.

    Parameters
    ----------
    compute : callable
        From the values of a group's channels, ``(size, values)`` for each tensor that makes them, to float64
        ``(size,)``.
    meaning, source : str
        For people.
    of : str
        What the values are: ``weights`` of the rows that make the channel, ``norms``, or ``scores`` that the
        devices have sent for those rows.
    wire : str
        What the devices are asked for; empty for nothing.
    """

    compute: Callable[[list[Rows]], Rows] = field(repr=False)
    meaning: str
    source: str
    of: str = "weights"
    wire: str = ""

    @property
    def traffic(self) -> str:
        """What it costs on the wire, in words."""
        if not self.wire:
            return "nothing"
        return "up: a score for every live weight, coded, in rounds before a change"


def _sum(rows: Rows) -> Rows:
    """Add each row one by one, in this order on every machine."""
    return np.cumsum(rows, axis=1)[:, -1] if rows.shape[1] else np.zeros(len(rows))


def _l1(tensors: list[Rows]) -> Rows:
    return _sum(np.concatenate([np.abs(rows) for rows in tensors], axis=1))


def _l2(tensors: list[Rows]) -> Rows:
    return np.sqrt(_sum(np.concatenate([rows * rows for rows in tensors], axis=1)))


def _fpgm(tensors: list[Rows]) -> Rows:
    rows = np.concatenate(tensors, axis=1)
    distances = [np.sqrt(_sum((rows - row) ** 2)) for row in rows]
    return _sum(np.stack(distances))


def _taylor(tensors: list[Rows]) -> Rows:
    return _sum(np.concatenate(tensors, axis=1)) ** 2


CHANNEL_SCORES: Mapping[str, ChannelScore] = {
    "l1": ChannelScore(compute=_l1, meaning="sum of |w| of the rows that make it", source="Li 2017"),
    "l2": ChannelScore(compute=_l2, meaning="norm of the rows that make it", source="Li 2017, with squares"),
    "fpgm": ChannelScore(
        compute=_fpgm, meaning="sum of its distances to the other channels", source="He 2019 (FPGM)"
    ),
    "norm-scale": ChannelScore(
        compute=_l1, meaning="|gamma| of its norms", source="Liu 2017 (Network Slimming)", of="norms"
    ),
    "taylor": ChannelScore(
        compute=_taylor,
        meaning="(sum of g w)^2 over the rows that make it",
        source="Molchanov 2019",
        of="scores",
        wire="snip",
    ),
}


def channel_live(known: Evidence, *, score: str, share: float, protect: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return what is live once every group has kept its best channels.

    Parameters
    ----------
    known : Evidence
        With groups. A channel whose weights are all pruned already does not come back.
    score : str
        Name in `CHANNEL_SCORES`.
    share : float
        Of each group's channels, in (0, 1]; at least one is kept.
    protect : tuple[str, ...]
        Tensors that keep all of their weights.

    Returns
    -------
    ndarray, bool, shape (num_parameters,)
        A part of the mask's.

    Raises
    ------
    PruningError
        There are no groups, or scores have not come.
    """
    if known.groups is None:
        raise PruningError("channels need the template's graph, and there is none here")
    mask, layout = known.mask, known.mask.layout
    keep = {}
    for group in known.groups:
        there = _there(group, mask, protect=protect)
        places, count = np.flatnonzero(there), _count(group, share)
        if count < len(places):
            found = _scores(group, known, score=score).astype(np.float32)
            there = np.zeros(group.size, np.bool_)
            there[places[largest(found[places], count)]] = True
        keep[group.id] = there
    live = known.groups.live(layout, keep)
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        if not tensor.prunable or tensor.name in protect:
            live[start:end] = True
    return live & mask.live


def has_too_many_channels(
    groups: ChannelGroups, mask: Mask, *, share: float, protect: tuple[str, ...] = ()
) -> bool:
    """Return whether a group has more channels than its share, as when scores have not come."""
    return any(
        np.count_nonzero(_there(group, mask, protect=protect)) > _count(group, share) for group in groups
    )


def prunable_groups(groups: ChannelGroups, layout: Layout, *, protect: tuple[str, ...]) -> ChannelGroups:
    """Return the groups of which a mask can take a channel: those with rows in a prunable tensor.

    Raises
    ------
    PruningError
        There are none.
    """
    from hedgerow_export import ChannelGroups

    names = {tensor.name for tensor in layout.tensors if tensor.prunable and tensor.name not in protect}
    kept = tuple(
        group
        for group in groups
        if any(member.role == "out" and member.tensor in names for member in group.members)
    )
    if not kept:
        raise PruningError("this model has no channels that can be pruned: prune weights instead")
    return ChannelGroups(groups=kept, frozen=groups.frozen)


def _count(group: ChannelGroup, share: float) -> int:
    # A half is rounded up; binary rounding of the share may not decide.
    return max(1, int(share * group.size + 0.5 + 1e-9))


def _there(group: ChannelGroup, mask: Mask, *, protect: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return which channels have a live weight among the rows that make them and can be pruned."""
    live = dict(_parts(mask.live, mask.layout))
    names = {t.name for t in mask.layout.tensors if t.prunable and t.name not in protect}
    makers = [m.rows(live[m.tensor]) for m in group.members if m.role == "out" and m.tensor in names]
    if not makers:
        return np.ones(group.size, np.bool_)
    found: NDArray[np.bool_] = np.concatenate(makers, axis=1).sum(axis=1) > 0
    return found


def _scores(group: ChannelGroup, known: Evidence, *, score: str) -> Rows:
    wanted, layout = CHANNEL_SCORES[score], known.mask.layout
    flat = known.weights
    if wanted.of == "scores":
        if known.device is None:
            raise PruningError("there is no score of the devices to score the channels by yet")
        flat = known.device
    parts = dict(_parts(np.where(known.mask.live, flat, np.float32(0)), layout))
    if wanted.of == "norms":
        kinds = {tensor.name: tensor.kind for tensor in layout.tensors}
        names = [m for m in group.members if kinds[m.tensor] == "norm" and m.tensor.endswith("weight")]
        if not names:
            raise PruningError(
                f"the channels of {group.id!r} have no norm to score them by: choose another channel_score"
            )
    else:
        names = [m for m in group.members if m.role == "out"]
    return wanted.compute([member.rows(parts[member.tensor]).astype(np.float64) for member in names])


def _parts(flat: NDArray[np.generic], layout: Layout) -> list[tuple[str, NDArray[np.generic]]]:
    return [
        (tensor.name, flat[start:end].reshape(tensor.shape))
        for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True)
    ]
