"""What a client does for one round: the training that is asked of it, and the update that comes of it."""

from __future__ import annotations

import hashlib
import math

from hedgerow_codecs import FEEDBACKS, Feedback, FrameKind, codec_from_config, encode_frame_with_decoded
from hedgerow_edge_client.errors import TrainingDiverged
from hedgerow_edge_client.replica import Replica
from hedgerow_edge_client.requests import TrainRequest, TrainResult
from hedgerow_edge_client.state import Pending
from hedgerow_transport import RoundPlan


def training_of(plan: RoundPlan, *, round_number: int, client: str, replica: Replica) -> TrainRequest:
    """Return the training that a plan asks of a client.

    Raises
    ------
    ValueError
        When a number of the plan makes no training, such as a learning rate of 0, or its error feedback is
        not known here.
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
        weights=replica.weights,
        live=replica.mask.live,
    )


def update_of(
    result: TrainResult, *, plan: RoundPlan, round_number: int, replica: Replica, feedback: Feedback
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
    mask, base = replica.mask, replica.digest
    feedback = feedback.remask(mask)
    wanted = feedback.compensate(result.weights - replica.weights)
    codec = codec_from_config(plan.codec)
    frame, decoded = encode_frame_with_decoded(
        mask.gather(wanted), kind=FrameKind.UPDATE, mask=mask, base=base, codec=codec
    )
    sent = mask.scatter(decoded.values())
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
