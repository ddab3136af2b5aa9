"""Which part of the model a device has: all of it, its tier's, or its own."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    ChannelSet,
    Frozen,
    Layout,
    Mask,
    WidthTier,
    seeded_parameters,
    tier_mask,
    width_tier,
)
from hedgerow_edge_client.personal import PersonalRule
from hedgerow_edge_client.replica import Replica
from hedgerow_transport import RoundPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPart:
    """What a device trains and sends.

    Parameters
    ----------
    mask
        Of the whole layout.
    width
        The smaller model, where the device's is cut down by width.
    share
        Of the device's tier.
    around
        What it computes with, where that is more than it trains; the rest keeps its published values.
    """

    mask: Mask
    width: WidthTier | None = None
    share: float = 1.0
    around: Mask | None = None

    @property
    def live(self) -> NDArray[np.bool_]:
        """What is trained, ``(num_parameters,)``."""
        return self.mask.live if self.width is None else self.mask.live & self.width.covered

    @property
    def present(self) -> NDArray[np.bool_]:
        """What the device computes with, ``(num_parameters,)``; everything else is 0 for it."""
        return self.live if self.around is None else self.around.live


def own_part(
    plan: RoundPlan,
    *,
    client: str,
    profile: Mapping[str, object],
    replica: Replica,
    personal: NDArray[np.bool_] | None = None,
) -> OwnPart:
    """Return the part of the model that this device has.

    Parameters
    ----------
    plan, client, profile, replica
        Of the round and the device.
    personal
        The mask of the device's own model, where it has one.

    Raises
    ------
    ValueError
        What the plan says of it cannot be understood here.
    hedgerow_codecs.LayoutError
        It speaks of channels that the model has not.
    """
    mask, told = replica.mask, plan.pruning
    if is_personal(plan):
        if personal is not None:
            mask = Mask(layout=mask.layout, live=mask.live & personal)
        return OwnPart(mask=mask)
    shares = told.get("tiers", {})
    if not shares:
        return OwnPart(mask=mask)
    share = tier_share(shares, client=client, profile=profile)
    by = told.get("tier_by", "magnitude")
    if by == "width":
        sets = [ChannelSet.parse(text, layout=mask.layout) for text in _texts(told.get("groups", ()))]
        width = None if share == 1 else width_tier(sets, mask=mask, share=share)
        return OwnPart(mask=mask, width=width, share=share)
    if by not in ("magnitude", "distance"):
        raise ValueError(f"tiers by {by!r} are not known here; update Hedgerow on this device")
    protect = (*told.get("protect", ()), *frozen_of(plan, mask.layout).names)
    origin = seeded_parameters(mask.layout, seed=plan.seed) if by == "distance" and share < 1 else None
    tier = tier_mask(replica.weights, mask=mask, share=share, protect=protect, origin=origin)
    # FIARSE's gradient is for a tier that stands alone.
    alone = told.get("biased") is True
    return OwnPart(mask=tier, share=share, around=None if alone else mask)


def frozen_of(plan: RoundPlan, layout: Layout) -> Frozen:
    """Return the tensors that a plan freezes.

    Raises
    ------
    ValueError
        It names them in a way that is not understood here.
    hedgerow_codecs.LayoutError
        A pattern means no tensor of the model.
    """
    patterns = plan.pruning.get("freeze", ())
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise ValueError("the plan names the frozen tensors in a way that makes no sense")
    return Frozen.matching(layout, patterns)


def is_personal(plan: RoundPlan) -> bool:
    """Return whether devices have models of their own in this run."""
    return plan.pruning.get("personal") is not None


def seed_of_sampled(plan: RoundPlan) -> int | None:
    """Return the seed of weights that stay as they were drawn; None in a run that trains weights."""
    return plan.seed if plan.pruning.get("sampled") is True else None


def personal_rule(plan: RoundPlan, layout: Layout) -> PersonalRule | None:
    """Return how devices thin their own models; None where they have none. Raises as `PersonalRule.read`."""
    told = plan.pruning.get("personal")
    rule = PersonalRule.read(told, seed=plan.seed, groups=plan.pruning.get("groups", ()))
    if rule is None:
        return None
    return replace(rule, protect=(*rule.protect, *frozen_of(plan, layout).names))


def tier_share(shares: Mapping[str, object], *, client: str, profile: Mapping[str, object]) -> float:
    """Return a device's share of the model: the smallest of those whose rule fits it, or 1.

    A rule is a pattern of names, such as ``zero-*``, or ``ram_mib < N``.

    Raises
    ------
    ValueError
        A rule or share that is not understood here.
    """
    found = [1.0]
    for rule, share in shares.items():
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share <= 1:
            raise ValueError(f"the share of tier '{rule}' is {share!r}, not above 0 and at most 1")
        limit = re.fullmatch(r"\s*ram_mib\s*<\s*(\d{1,9})\s*", rule)
        ram = profile.get("ram_mib")
        if limit:
            fits = isinstance(ram, (int, float)) and ram < int(limit[1])
        else:
            fits = fnmatch.fnmatchcase(client, rule)
        if fits:
            found.append(float(share))
    return min(found)


def _texts(value: object) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError("the plan tells the channels in a way that makes no sense")
    return list(value)
