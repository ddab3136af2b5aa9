"""What a client does for one round: the training that is asked of it, and the update that comes of it."""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
from collections.abc import Mapping

import numpy as np

from hedgerow_codecs import (
    FEEDBACKS,
    NO_BASE,
    ErrorFeedback,
    Feedback,
    FrameKind,
    Frozen,
    Layout,
    Mask,
    bundle,
    codec_from_config,
    encode_frame,
    encode_frame_with_decoded,
    encode_mask,
    tier_mask,
)
from hedgerow_edge_client.errors import TrainingDiverged
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.replica import Replica
from hedgerow_edge_client.requests import TrainRequest, TrainResult
from hedgerow_edge_client.shaping import Shaping
from hedgerow_edge_client.state import Pending
from hedgerow_transport import RoundPlan


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


def own_mask(plan: RoundPlan, *, client: str, profile: Mapping[str, object], replica: Replica) -> Mask:
    """Return the part of the model that this device trains: all of it, or its tier's.

    Raises
    ------
    ValueError
        The plan's tiers cannot be understood here.
    """
    shares = plan.pruning.get("tiers", {})
    if not shares:
        return replica.mask
    share = tier_share(shares, client=client, profile=profile)
    protect = (*plan.pruning.get("protect", ()), *frozen_of(plan, replica.mask.layout).names)
    return tier_mask(replica.weights, mask=replica.mask, share=share, protect=protect)


def training_of(
    plan: RoundPlan, *, round_number: int, client: str, replica: Replica, mask: Mask
) -> TrainRequest:
    """Return the training that a plan asks of a client, on the part of the model that is its own.

    Raises
    ------
    ValueError
        When a number of the plan makes no training, such as a learning rate of 0, or its error feedback or
        what it asks besides is not known here.
    """
    if plan.feedback not in FEEDBACKS:
        raise ValueError(
            f"error feedback '{plan.feedback}' is not known here; update Hedgerow on this device"
        )
    # A seed of 64 bits that differs between rounds and clients, and is the same on every machine.
    text = f"{plan.seed}/{round_number}/{client}".encode()
    return TrainRequest(
        round=round_number,
        seed=int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        proximal_mu=plan.proximal_mu,
        max_seconds=plan.max_seconds,
        weights=np.where(mask.live, replica.weights, np.float32(0)),
        live=mask.live,
        question=Question.read(plan.pruning.get("question", {})),
        power=_power(plan),
        biased=plan.pruning.get("biased") is True,
        shaping=Shaping.read(plan.pruning.get("shaping", {})),
        frozen=frozen_of(plan, replica.mask.layout).names,
    )


def update_of(
    result: TrainResult,
    *,
    plan: RoundPlan,
    round_number: int,
    replica: Replica,
    mask: Mask,
    feedback: Feedback,
) -> Pending:
    """Encode what training changed, as the error feedback wants it.

    Parameters
    ----------
    result
        Of training that began with the replica's weights.
    plan
        Names the codec.
    round_number
        The round that the update is for.
    replica
        The model that the update is against.
    mask
        The device's own, unless the result proposes another one.
    feedback
        Of the plan's kind; what became of all earlier updates.

    Raises
    ------
    TrainingDiverged
        The loss is not a finite number.
    hedgerow_codecs.CodecError
        The weights are not finite, or the codec cannot carry them.
    """
    if not math.isfinite(result.loss):
        raise TrainingDiverged(f"the loss is {result.loss}")
    base = replica.digest
    if result.proposal is not None:
        mask = Mask(layout=mask.layout, live=result.proposal)
    feedback = feedback.remask(mask)
    if isinstance(feedback, ErrorFeedback):
        feedback = feedback.decayed(plan.residual_decay)
    frozen = frozen_of(plan, mask.layout)
    delta = result.weights - np.where(mask.live, replica.weights, np.float32(0))
    delta[frozen.entries] = 0
    wanted = feedback.compensate(delta)
    positions = frozen.positions(mask)
    codec = codec_from_config(plan.codec)
    frame, decoded = encode_frame_with_decoded(
        wanted[positions], kind=FrameKind.UPDATE, mask=frozen.moving(mask), base=base, codec=codec
    )
    sent = np.zeros_like(wanted)
    sent[positions] = decoded.values()
    if plan.pruning.get("question"):
        frame = bundle(frame, _answer(result, mask=mask, shared=replica.mask, plan=plan))
    metrics = {"loss": float(result.loss)}
    if result.accuracy is not None and math.isfinite(result.accuracy):
        metrics["accuracy"] = float(result.accuracy)
    return Pending(
        round=round_number,
        frame=frame,
        # Whatever a trainer did to dead weights is no debt.
        residual=feedback.after(wanted, sent).remask(mask).vector,
        num_samples=result.num_samples,
        metrics=metrics,
        train_s=result.seconds,
    )


def _power(plan: RoundPlan) -> float:
    power = plan.pruning.get("power", 1.0)
    if not isinstance(power, (int, float)) or isinstance(power, bool):
        raise ValueError(f"power is {power!r} in the plan, not a number")
    return float(power)


def _answer(result: TrainResult, *, mask: Mask, shared: Mask, plan: RoundPlan) -> bytes:
    """Encode scores or the proposed mask; nothing where the trainer has made neither."""
    if result.proposal is not None:
        return encode_mask(mask, previous=shared)
    if result.scores is None:
        return b""
    question = plan.pruning["question"]
    region = Mask.dense(shared.layout) if question.get("pruned") else shared
    if question.get("region") == "pruned":
        region = shared.opposite()
    frozen = frozen_of(plan, shared.layout)
    # Of tensors that no mask touches nobody needs a score.
    scores = np.where(shared.layout.prunable(), result.scores, np.float32(0))[frozen.positions(region)]
    moving = frozen.moving(region)
    codec = codec_from_config(question["codec"])
    return encode_frame(scores, kind=FrameKind.SCORES, mask=moving, base=NO_BASE, codec=codec)


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
