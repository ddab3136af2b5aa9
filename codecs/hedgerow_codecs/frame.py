"""Frames: a payload with what it is, what it is for, and a checksum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.codec import Codec
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask

NO_BASE = bytes(16)


class FrameKind(IntEnum):
    """What a frame carries."""

    UPDATE = 1
    MODEL_DELTA = 2
    KEYFRAME = 3
    MASK = 4
    MASK_DELTA = 5
    SEEDED = 6
    SCORES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a frame says about itself, without its payload being read.

    The digests of an ``UPDATE`` or ``SCORES`` frame are the first 4 bytes only (small updates pay for each
    byte): compare with `is_for`, or by ``digest.startswith(header.base)``.
    """

    kind: FrameKind
    version: int
    layout: bytes
    mask: bytes
    base: bytes
    codec: Mapping[str, object]
    frame_bytes: int
    payload_bytes: int

    def is_for(self, *, mask: Mask, base: bytes) -> bool:
        """Tell whether the frame was made for this mask (and its layout) and base model."""
        return (
            mask.layout.digest.startswith(self.layout)
            and mask.digest.startswith(self.mask)
            and base.startswith(self.base)
        )


def encode_frame(
    values: NDArray[np.float32], *, kind: FrameKind, mask: Mask, base: bytes, codec: Codec
) -> bytes:
    """Encode a live vector as a frame."""
    raise NotImplementedError


def decode_frame(frame: bytes, *, kind: FrameKind, mask: Mask, base: bytes) -> DecodedUpdate:
    """Check a frame and decode its payload."""
    raise NotImplementedError


def read_header(frame: bytes) -> FrameHeader:
    """Read what a frame says about itself."""
    raise NotImplementedError


def max_frame_bytes(layout: Layout) -> int:
    """Return a bound on the size of any frame for this layout, bytes."""
    raise NotImplementedError


def model_digest(flat: NDArray[np.float32], *, mask: Mask) -> bytes:
    """Return the identity of a model: blake2b-128 of its live float32 bytes and the mask's digest."""
    raise NotImplementedError
