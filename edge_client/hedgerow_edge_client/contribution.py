"""What a client does for one round: the training that is asked of it, and the update that comes of it."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from hedgerow_codecs import (
    FEEDBACKS,
    NO_BASE,
    ErrorFeedback,
    Feedback,
    FrameKind,
    Mask,
    bundle,
    codec_from_config,
    encode_frame,
    encode_frame_with_decoded,
    encode_mask,
    numbers_mask,
)
from hedgerow_edge_client.errors import TrainingDiverged
from hedgerow_edge_client.own_part import OwnPart, frozen_of, is_personal, personal_rule, seed_of_sampled
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.replica import Replica
from hedgerow_edge_client.requests import TrainRequest, TrainResult
from hedgerow_edge_client.shaping import Shaping
from hedgerow_edge_client.state import Pending
from hedgerow_transport import RoundPlan


def training_of(
    plan: RoundPlan, *, round_number: int, client: str, replica: Replica, part: OwnPart
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
        weights=np.where(part.present, replica.weights, np.float32(0)),
        live=part.live,
        question=Question.read(plan.pruning.get("question", {})),
        power=_power(plan),
        biased=plan.pruning.get("biased") is True,
        shaping=Shaping.read(plan.pruning.get("shaping", {})),
        frozen=frozen_of(plan, replica.mask.layout).names,
        personal=personal_rule(plan, replica.mask.layout),
        mask_labels=plan.pruning.get("mask_labels") is True,
        sampled=seed_of_sampled(plan),
        width=part.share if part.width is not None else 1.0,
    )


def update_of(
    result: TrainResult,
    *,
    plan: RoundPlan,
    round_number: int,
    replica: Replica,
    part: OwnPart,
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
    part
        The device's own, unless the result proposes another mask.
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
    base, mask = replica.digest, part.mask
    if result.proposal is not None:
        mask = Mask(layout=mask.layout, live=result.proposal)
    feedback = feedback.remask(mask)
    if isinstance(feedback, ErrorFeedback):
        feedback = feedback.decayed(plan.residual_decay)
    frozen = frozen_of(plan, mask.layout)
    delta = np.where(mask.live, result.weights - replica.weights, np.float32(0))
    if seed_of_sampled(plan) is not None:
        # A mask says all, and is no step from anywhere.
        delta = result.weights.copy()
    delta[frozen.entries] = 0
    positions, framed = frozen.positions(mask), frozen.moving(mask)
    if part.width is not None:
        positions, framed = part.width.positions, part.width.mask
        delta[~part.width.covered] = 0
    wanted = feedback.compensate(delta)
    codec = codec_from_config(plan.codec)
    frame, decoded = encode_frame_with_decoded(
        wanted[positions], kind=FrameKind.UPDATE, mask=framed, base=base, codec=codec
    )
    sent = np.zeros_like(wanted)
    sent[positions] = decoded.values()
    if plan.pruning.get("question") or is_personal(plan):
        frame = bundle(frame, _answer(result, mask=mask, shared=replica.mask, plan=plan))
    metrics = {"loss": float(result.loss)}
    if result.held_out is not None and math.isfinite(result.held_out):
        metrics["personal"] = float(result.held_out)
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
    if result.proposal is not None or is_personal(plan):
        return b"" if mask == shared else encode_mask(mask, previous=shared)
    if result.scores is None:
        return b""
    question = plan.pruning["question"]
    if question["form"] == "trial":
        losses = numbers_mask(len(result.scores))
        floats = codec_from_config({"codec_id": "float32"})
        return encode_frame(result.scores, kind=FrameKind.SCORES, mask=losses, base=NO_BASE, codec=floats)
    if question["form"] == "indices":
        named = shared.live | ((result.scores > 0) & shared.layout.prunable())
        return encode_mask(Mask(layout=shared.layout, live=named), previous=shared)
    region = Mask.dense(shared.layout) if question.get("pruned") else shared
    if question.get("region") == "pruned":
        region = shared.opposite()
    frozen = frozen_of(plan, shared.layout)
    # Of tensors that no mask touches nobody needs a score.
    scores = np.where(shared.layout.prunable(), result.scores, np.float32(0))[frozen.positions(region)]
    moving = frozen.moving(region)
    codec = codec_from_config(question["codec"])
    return encode_frame(scores, kind=FrameKind.SCORES, mask=moving, base=NO_BASE, codec=codec)
