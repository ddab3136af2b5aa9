"""What a device sends in a round, taken apart: its update, under its own mask, and its scores or its vote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    NO_BASE,
    DecodedUpdate,
    FrameKind,
    Frozen,
    Layout,
    Mask,
    decode_frame,
    decode_mask,
    read_header,
    tier_mask,
    unbundle,
)
from hedgerow_coordinator.aggregate import HeldAggregator
from hedgerow_coordinator.errors import AggregationError
from hedgerow_coordinator.pruning import PruningPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One device's answer.

    Parameters
    ----------
    update : DecodedUpdate
        Under the mask of what the device holds.
    scores : DecodedUpdate or None
        What was asked for besides; None where nothing came, or a mask was asked for.
    update_bytes, besides_bytes : int
        Lengths of the frames.
    """

    update: DecodedUpdate
    scores: DecodedUpdate | None
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
    ) -> None:
        self.question = question
        self._policy, self._mask, self._base = policy, mask, base
        self._region = Mask.dense(mask.layout) if self.question.get("pruned") else mask
        if self.question.get("region") == "pruned":
            self._region = mask.opposite()
        self._frozen = frozen or Frozen(layout=mask.layout)
        # What frames are made under, by what is known of them here.
        self._moving = {known: self._frozen.moving(known) for known in (mask, self._region)}
        self._tiers: tuple[Mask, ...] = ()
        if policy.policy == "tiered":
            shares = sorted({float(str(share)) for share in policy.tiers.values()})
            self._tiers = tuple(
                tier_mask(published, mask=mask, share=share, protect=policy.protect) for share in shares
            )
            self._moving |= {tier: self._frozen.moving(tier) for tier in self._tiers}

    @property
    def kind(self) -> str:
        """What comes beside the updates, for the journal: ``scores``, ``votes`` or nothing."""
        return {"values": "scores", "mask": "votes"}.get(str(self.question.get("form", "")), "")

    @property
    def holds_parts(self) -> bool:
        """Whether devices may hold other weights than the shared mask's."""
        return bool(self._tiers) or self.kind == "votes"

    @property
    def is_vote(self) -> bool:
        """Whether devices propose masks in this round."""
        return self.kind == "votes"

    def score_sum(self) -> HeldAggregator | None:
        """Return an empty sum for the scores of this round; None where none are asked for."""
        return HeldAggregator(self._region) if self.kind == "scores" else None

    def read(self, blob: bytes) -> Answer:
        """Take an answer apart.

        Raises
        ------
        CodecError
            It is damaged, or not for this round.
        AggregationError
            The proposed mask breaks the rules of the vote.
        """
        frame, besides = unbundle(blob) if self.question else (blob, b"")
        mask, scores = self._mask, None
        if besides and self.is_vote:
            mask = self._checked(decode_mask(besides, layout=mask.layout, previous=mask))
        elif besides:
            scores = self._decoded(besides, kind=FrameKind.SCORES, mask=self._region, base=NO_BASE)
        elif self._tiers:
            found = read_header(frame).mask
            mask = next((t for t in self._tiers if self._moving[t].digest.startswith(found)), mask)
        update = self._decoded(frame, kind=FrameKind.UPDATE, mask=mask, base=self._base)
        return Answer(
            update=update, scores=scores, update_bytes=len(frame), besides_bytes=len(blob) - len(frame)
        )

    def _decoded(self, frame: bytes, *, kind: FrameKind, mask: Mask, base: bytes) -> DecodedUpdate:
        moving = self._moving.get(mask) or self._frozen.moving(mask)
        return self._frozen.widened(decode_frame(frame, kind=kind, mask=moving, base=base), mask=mask)

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
