"""What devices are told of the parts that they hold: channels, for which they have no graph, and rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hedgerow_codecs import ChannelSet, ChannelSlice, Layout
from hedgerow_coordinator.errors import PruningError

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.policy import PruningPolicy
    from hedgerow_export import ChannelGroup

# What a round's plan takes.
MAX_SETS = 64
MAX_TEXT_BYTES = 1024
MAX_ALL_BYTES = 12_000


def told_channels(
    policy: PruningPolicy, *, template: Callable[[], bytes], layout: Layout
) -> tuple[ChannelSet, ...]:
    """Return the channels that devices must know to carry a policy out; nothing where they need not.

    Parameters
    ----------
    policy : PruningPolicy
    template : callable
        Returns the template; called only where channels are needed.
    layout : Layout
        Its layout.

    Raises
    ------
    PruningError
        The model has no channels, or more than a round's plan can tell.
    """
    by_width = policy.policy == "tiered" and policy.tier_by == "width"
    if not by_width and not (policy.policy == "personal" and policy.channels < 1):
        return ()
    from hedgerow_export import channel_groups

    sets = [found for group in channel_groups(template()) if (found := _set_of(group, layout)) is not None]
    if not by_width:
        sets = [found for found in sets if found.is_prunable(layout, protect=policy.protect)]
    if not sets:
        raise PruningError("this model has no channels that can be taken away: prune weights instead")
    sizes = [len(found.to_text()) for found in sets]
    if len(sets) > MAX_SETS or max(sizes) > MAX_TEXT_BYTES or sum(sizes) > MAX_ALL_BYTES:
        raise PruningError(
            f"this model's {len(sets)} groups of channels take {sum(sizes)} bytes to describe, and a round's "
            f"plan has room for {MAX_SETS} groups of {MAX_TEXT_BYTES} bytes, {MAX_ALL_BYTES} in all: "
            "prune weights instead"
        )
    return tuple(sets)


def told_parts(policy: PruningPolicy, *, sets: Sequence[ChannelSet]) -> dict[str, object]:
    """Return what a round's plan says of devices' own and narrower models and of tiers; empty for neither."""
    told: dict[str, object] = {"groups": [channels.to_text() for channels in sets]} if sets else {}
    if policy.policy == "tiered" and policy.tier_by != "magnitude":
        told["tier_by"] = policy.tier_by
    if policy.mask_labels:
        told["mask_labels"] = True
    if policy.policy == "sampled":
        told["sampled"] = True
    if policy.policy == "personal":
        told["personal"] = {
            "density": policy.density,
            "channels": policy.channels,
            "share": policy.own_share,
            "least": policy.own_least,
            "held_out": policy.held_out,
            "rewind": policy.rewind,
            "protect": list(policy.protect),
        }
    return told


def _set_of(group: ChannelGroup, layout: Layout) -> ChannelSet | None:
    """Return a group in the form that is told; None where its indices are not regular, so that it stays."""
    places = {tensor.name: place for place, tensor in enumerate(layout.tensors)}
    slices = []
    for member in group.members:
        found = ChannelSlice.of(
            np.asarray(member.indices),
            tensor=places[member.tensor],
            axis=member.axis,
            makes=member.role == "out",
        )
        if found is None:
            return None
        slices.append(found)
    return ChannelSet(size=group.size, slices=tuple(slices))
