"""How the server's model goes from version to version, and what it sends to take the clients along.

The server holds two vectors: the precise weights, and the weights as every client holds them. Their
difference is the server's residual: what quantisation of the way down left out goes out with a later version
(error feedback), without any state of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    NO_BASE,
    Codec,
    FrameKind,
    Frozen,
    Mask,
    codec_from_config,
    encode_frame,
    encode_frame_with_decoded,
    encode_mask,
    model_digest,
)
from hedgerow_coordinator.checkpoint import ServerState

Steps = tuple[tuple[str, bytes], ...]


def published_digest(state: ServerState) -> bytes:
    """Return the digest of the weights that the clients hold, and of the mask."""
    return model_digest(state.published, mask=state.mask)


def averaged(state: ServerState, step: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the precise weights after a step of the server.

    Parameters
    ----------
    state
        The version that the updates were made on.
    step
        See `hedgerow_coordinator.server_optimizer.server_step`, ``(mask.num_live,)``.

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Infinite where the sum leaves float32; the caller looks.
    """
    moved = state.mask.gather(state.weights)
    with np.errstate(over="ignore", invalid="ignore"):
        # Summed in float64 and rounded once, without a float64 copy of the model.
        np.add(moved, step, out=moved, dtype=np.float64, casting="same_kind")
    weights = state.weights.copy()
    weights[state.mask.live] = moved
    return weights


def stepped(
    state: ServerState,
    weights: NDArray[np.float32],
    *,
    mask: Mask,
    codec: Codec,
    frozen: Frozen | None = None,
) -> tuple[ServerState, Steps]:
    """Return the next version, and the frames that bring a client there.

    Parameters
    ----------
    state
        The version before.
    weights
        The new precise weights, ``(num_parameters,)``.
    mask
        The mask of the new version; what it drops becomes zero, what it grows starts at zero.
    codec
        How the way down is coded.
    frozen
        Tensors that keep their values, whatever `weights` says; None where there are none.

    Returns
    -------
    tuple
        The new version, and (blob kind, frame) pairs in the order in which a client applies them.
    """
    base = published_digest(state)
    steps: list[tuple[str, bytes]] = []
    if mask.digest != state.mask.digest:
        steps.append(("mask_delta", encode_mask(mask, previous=state.mask)))
    frozen = frozen or Frozen(layout=mask.layout)
    weights = np.where(mask.live, weights, np.float32(0.0))
    weights[frozen.entries] = state.weights[frozen.entries]
    published = np.where(mask.live, state.published, np.float32(0.0))
    positions = frozen.positions(mask)
    wanted = weights[positions] - published[positions]
    frame, sent = encode_frame_with_decoded(
        wanted, kind=FrameKind.MODEL_DELTA, mask=frozen.moving(mask), base=base, codec=codec
    )
    published[positions] += sent.values()
    steps.append(("model_delta", frame))
    following = ServerState(version=state.version + 1, mask=mask, weights=weights, published=published)
    return following, tuple(steps)


def keyframe(state: ServerState) -> Steps:
    """Return the frames that bring a client to this version from nothing, without loss."""
    frame = encode_frame(
        state.mask.gather(state.published),
        kind=FrameKind.KEYFRAME,
        mask=state.mask,
        base=NO_BASE,
        codec=codec_from_config({"codec_id": "float32"}),
    )
    return (("mask", encode_mask(state.mask)), ("keyframe", frame))
