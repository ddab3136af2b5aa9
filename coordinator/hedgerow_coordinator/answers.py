"""What a device sends in a round, taken apart: its update, under its own mask, and its scores or its vote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    NO_BASE,
    DecodedUpdate,
    FrameKind,
    Frozen,
    Layout,
    Mask,
    WidthTier,
    decode_frame,
    decode_mask,
    numbers_mask,
    read_header,
    tier_mask,
    unbundle,
    width_tier,
)
from hedgerow_coordinator.aggregate import HeldAggregator
from hedgerow_coordinator.errors import AggregationError
from hedgerow_coordinator.outcomes import OutcomeSum
from hedgerow_coordinator.pruning import PruningPolicy, open_places

if TYPE_CHECKING:
    from hedgerow_codecs import ChannelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One device's answer.

    Parameters
    ----------
    update : DecodedUpdate
        Under the mask of what the device holds.
    scores : DecodedUpdate or None
        What was asked for besides; None where nothing came, or a mask was asked for.
    wanted : Mask or None
        The shared mask and the pruned weights that the device wants, where it was asked for their indices.
    update_bytes, besides_bytes : int
        Lengths of the frames.
    """

    update: DecodedUpdate
    scores: DecodedUpdate | None
    wanted: Mask | None
    update_bytes: int
    besides_bytes: int


class AnswerReader:
    """Read the answers of one round.

    Parameters
    ----------
    policy
        The plan's; who holds what follows from it.
    question
        What the round asks besides the updates; see `PruningPolicy.question_at`.
    mask
        The shared mask of the round.
    published
        The weights that every device holds.
    base
        Their digest.
    frozen
        Tensors that answers are without; None where there are none.
    sets
        The model's channels, where tiers are cut down by width.
    origin
        The first weights, where tiers hold what has moved since.
    """

    def __init__(
        self,
        policy: PruningPolicy,
        *,
        mask: Mask,
        published: NDArray[np.float32],
        base: bytes,
        question: Mapping[str, object],
        frozen: Frozen | None = None,
        sets: Sequence[ChannelSet] = (),
        origin: NDArray[np.float32] | None = None,
    ) -> None:
        self.question = question
        self._policy, self._mask, self._base, self._published = policy, mask, base, published
        self._region = Mask.dense(mask.layout) if self.question.get("pruned") else mask
        if self.question.get("region") == "pruned":
            self._region = mask.opposite()
        if self.kind == "losses":
            self._region = numbers_mask(int(str(self.question["candidates"])))
        self._frozen = frozen or Frozen(layout=mask.layout)
        # What frames are made under, by what is known of them here.
        regions = (mask,) if self.kind == "losses" else (mask, self._region)
        self._moving = {known: self._frozen.moving(known) for known in regions}
        self._tiers: tuple[Mask, ...] = ()
        self._widths: tuple[WidthTier, ...] = ()
        if policy.policy == "tiered":
            shares = sorted({float(str(share)) for share in policy.tiers.values()})
            if policy.tier_by == "width":
                self._widths = tuple(width_tier(sets, mask=mask, share=s) for s in shares if s < 1)
                return
            self._tiers = tuple(
                tier_mask(published, mask=mask, share=share, protect=policy.protect, origin=origin)
                for share in shares
            )
            self._moving |= {tier: self._frozen.moving(tier) for tier in self._tiers}

    @property
    def kind(self) -> str:
        """What comes beside the updates, for the journal: ``scores``, ``votes``, ``masks`` or nothing."""
        if self._policy.policy == "personal":
            return "masks"
        form = str(self.question.get("form", ""))
        kinds = {"values": "scores", "mask": "votes", "indices": "votes", "trial": "losses"}
        return kinds.get(form, "")

    @property
    def holds_parts(self) -> bool:
        """Whether devices may hold other weights than the shared mask's."""
        return self._policy.policy in ("tiered", "personal") or self.is_vote

    @property
    def has_two_frames(self) -> bool:
        """Whether the blob of an answer is two frames, see `hedgerow_codecs.bundle`."""
        return bool(self.question) or self.kind == "masks"

    @property
    def is_sampled(self) -> bool:
        """Whether updates are masks over frozen weights."""
        return self._policy.policy == "sampled"

    @property
    def is_vote(self) -> bool:
        """Whether devices propose masks in this round."""
        return self.question.get("form") == "mask"

    def score_sum(self) -> HeldAggregator | None:
        """Return an empty sum for the scores of this round; None where none are asked for."""
        return HeldAggregator(self._region) if self.kind in ("scores", "losses") else None

    def outcome_sum(self, round_number: int) -> OutcomeSum | None:
        """Return an empty sum of what the devices' models say of the weights; None where nobody learns."""
        policy = self._policy
        if policy.policy != "thompson":
            return None
        share = policy.open_at(round_number + 1)
        return OutcomeSum(self._mask, published=self._published, share=share, protect=policy.protect)

    def read(self, blob: bytes) -> Answer:
        """Take an answer apart.

        Raises
        ------
        CodecError
            It is damaged, or not for this round.
        AggregationError
            The proposed mask breaks the rules of the vote.
        """
        frame, besides = unbundle(blob) if self.has_two_frames else (blob, b"")
        mask, scores, wanted = self._mask, None, None
        if besides and self.kind == "masks":
            mask = self._within(decode_mask(besides, layout=mask.layout, previous=mask))
        elif besides and self.is_vote:
            mask = self._checked(decode_mask(besides, layout=mask.layout, previous=mask))
        elif besides and self.question["form"] == "indices":
            wanted = self._checked_wishes(decode_mask(besides, layout=mask.layout, previous=mask))
        elif besides and self.kind == "losses":
            scores = decode_frame(besides, kind=FrameKind.SCORES, mask=self._region, base=NO_BASE)
        elif besides:
            scores = self._decoded(besides, kind=FrameKind.SCORES, mask=self._region, base=NO_BASE)
        elif self._tiers:
            found = read_header(frame).mask
            mask = next((t for t in self._tiers if self._moving[t].digest.startswith(found)), mask)
        elif self._widths:
            found = read_header(frame).mask
            mask = next((w.mask for w in self._widths if w.mask.digest.startswith(found)), mask)
        update = self._decoded(frame, kind=FrameKind.UPDATE, mask=mask, base=self._base)
        return Answer(
            update=update,
            scores=scores,
            wanted=wanted,
            update_bytes=len(frame),
            besides_bytes=len(blob) - len(frame),
        )

    def _decoded(self, frame: bytes, *, kind: FrameKind, mask: Mask, base: bytes) -> DecodedUpdate:
        if mask.layout != self._mask.layout:
            # A smaller model; tiers by width and frozen tensors do not go together.
            return decode_frame(frame, kind=kind, mask=mask, base=base)
        moving = self._moving.get(mask) or self._frozen.moving(mask)
        return self._frozen.widened(decode_frame(frame, kind=kind, mask=moving, base=base), mask=mask)

    def positions(self, update: DecodedUpdate) -> NDArray[np.int64] | None:
        """Return where the entries of an update are, where it is of a smaller model; else None."""
        return next((w.positions for w in self._widths if w.mask == update.mask), None)

    def _within(self, own: Mask) -> Mask:
        """Return a device's own mask, if it is a part of the shared one."""
        if (own.live & ~self._mask.live).any():
            raise AggregationError("its own mask has weights that the shared one has not")
        for tensor, part in zip(own.layout.tensors, _parts(own.layout), strict=True):
            if tensor.name in self._policy.protect and not own.live[part].all():
                raise AggregationError(f"its own mask takes weights of '{tensor.name}', which is protected")
        return own

    def _checked(self, proposed: Mask) -> Mask:
        if "density" in self.question:
            return self._checked_part(proposed, density=float(str(self.question["density"])))
        for tensor, before, after, part in zip(
            self._mask.layout.tensors,
            self._mask.lengths,
            proposed.lengths,
            _parts(self._mask.layout),
            strict=True,
        ):
            if before != after:
                raise AggregationError(
                    f"it proposes {after} weights for tensor '{tensor.name}', which has {before}"
                )
            changed = not np.array_equal(self._mask.live[part], proposed.live[part])
            if changed and tensor.name in self._policy.protect:
                raise AggregationError(f"it proposes another mask for '{tensor.name}', which is protected")
        return proposed

    def _checked_wishes(self, wanted: Mask) -> Mask:
        if (self._mask.live & ~wanted.live).any():
            raise AggregationError("it leaves live weights out")
        share, layout = float(str(self.question["swap"])), self._mask.layout
        for tensor, before, after in zip(layout.tensors, self._mask.lengths, wanted.lengths, strict=True):
            fixed = not tensor.prunable or tensor.name in self._policy.protect
            most = 0 if fixed else open_places(before, tensor.size, share=share)
            if after - before > most:
                named = after - before
                raise AggregationError(
                    f"it names {named} weights of tensor '{tensor.name}', at most {most} are asked for"
                )
        return wanted

    def _checked_part(self, proposed: Mask, *, density: float) -> Mask:
        layout, most = self._mask.layout, math.floor(density * self._mask.layout.num_parameters + 1e-6)
        if (proposed.live & ~self._mask.live).any():
            raise AggregationError("it proposes weights that were not live")
        if proposed.num_live > most:
            raise AggregationError(f"it proposes {proposed.num_live} weights, at most {most} are asked for")
        for tensor, before, after in zip(layout.tensors, self._mask.lengths, proposed.lengths, strict=True):
            if after < (before if tensor.name in self._policy.protect else min(1, before)):
                raise AggregationError(f"it proposes {after} of {before} weights for tensor '{tensor.name}'")
        return proposed


def _parts(layout: Layout) -> list[slice]:
    return [
        slice(start, start + tensor.size)
        for tensor, start in zip(layout.tensors, layout.offsets, strict=False)
    ]
