"""The client's copy of the published model, brought from version to version by coded steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    FrameKind,
    Frozen,
    Layout,
    Mask,
    decode_frame,
    decode_mask,
    decode_seeded,
    model_digest,
)
from hedgerow_edge_client.errors import ReplicaError

NOTHING = -1
ZERO_DIGEST = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Hold one version of the published model.

    Parameters
    ----------
    version
        Committed rounds behind these weights; -1 before anything arrived.
    mask
        The mask of this version.
    weights
        Flat float32 vector `(num_parameters,)`, zero where the mask is dead.
    """

    version: int
    mask: Mask
    weights: NDArray[np.float32]

    @classmethod
    def empty(cls, layout: Layout) -> Replica:
        """Return the state before the first keyframe."""
        return cls(
            version=NOTHING,
            mask=Mask.dense(layout),
            weights=np.zeros(layout.num_parameters, dtype=np.float32),
        )

    @property
    def digest(self) -> bytes:
        """Digest of the live weights and the mask; 16 zero bytes before the first keyframe."""
        return ZERO_DIGEST if self.version == NOTHING else model_digest(self.weights, mask=self.mask)

    def advanced(
        self, steps: Sequence[tuple[str, bytes]], *, version: int, frozen: Frozen | None = None
    ) -> Replica:
        """Return the replica after `steps`, each a (blob kind, frame) pair, in order.

        Deltas are without the `frozen` tensors; None where nothing is frozen.

        Raises
        ------
        ReplicaError
            When a step is of a kind that makes no model.
        hedgerow_codecs.CodecError
            When a frame is damaged or was made against another model or mask.
        """
        mask, weights, base = self.mask, self.weights.copy(), self.digest
        frozen = frozen or Frozen(layout=mask.layout)
        for kind, frame in steps:
            if kind == "seed":
                mask = Mask.dense(mask.layout)
                weights = decode_seeded(frame, layout=mask.layout)
                base = model_digest(weights, mask=mask)
            elif kind == "mask":
                mask = decode_mask(frame, layout=mask.layout)
                weights[~mask.live] = 0.0
            elif kind == "mask_delta":
                mask = decode_mask(frame, layout=mask.layout, previous=mask)
                weights[~mask.live] = 0.0
            elif kind == "keyframe":
                update = decode_frame(frame, kind=FrameKind.KEYFRAME, mask=mask, base=ZERO_DIGEST)
                weights = mask.scatter(update.values())
                base = model_digest(weights, mask=mask)
            elif kind == "model_delta":
                moving = frozen.moving(mask)
                update = decode_frame(frame, kind=FrameKind.MODEL_DELTA, mask=moving, base=base)
                weights[frozen.positions(mask)] += update.values()
                base = model_digest(weights, mask=mask)
            else:
                raise ReplicaError(f"a blob of kind '{kind}' is no step of a model", kind=kind)
        return Replica(version=version, mask=mask, weights=weights)
