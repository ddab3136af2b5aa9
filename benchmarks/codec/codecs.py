"""Hedgerow's codecs as the benchmark uses them: whole frames."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from benchmarks.codec.cases import Case
from benchmarks.codec.measures import dense_codes, entropy_bytes, snr_db
from benchmarks.codec.rate import Curve, Point
from numpy.typing import NDArray

from hedgerow_codecs import NO_BASE, Codec, DecodedUpdate, FrameKind, codec_from_config, decode_frame
from hedgerow_codecs import encode_frame_with_decoded as encode_with_decoded
from hedgerow_codecs.mask import Mask

# The codec's limits.
_LOW, _HIGH = -9.0, 6.0


def encode(values: NDArray[np.float32], *, mask: Mask, codec: Codec) -> tuple[bytes, DecodedUpdate]:
    """Encode an update as a frame; return it and what it decodes to."""
    return encode_with_decoded(values, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec)


def decode(frame: bytes, *, mask: Mask) -> DecodedUpdate:
    """Decode a frame of an update."""
    return decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE)


def hedgerow_curve(
    case: Case, vector: NDArray[np.float32], *, settings: Mapping[str, object], codec_id: str = "deadzone"
) -> Curve:
    """Return a codec with a step, ``deadzone`` or ``trellis``, on a vector, at any step.

    The codec rounds steps to four for each octave. So that all can be tried, as peers' can, the vector is
    scaled until the step wanted is one of these.
    """
    rms = math.sqrt(float(np.mean(np.square(vector, dtype=np.float64))))

    def code(log2_step: float) -> Point:
        step = 2.0**log2_step
        scaled = (vector / np.float64(step * rms)).astype(np.float32)  # the step of which is 1
        codec = codec_from_config({"codec_id": codec_id, "step": step, **settings})
        frame, decoded = encode(scaled, mask=case.mask, codec=codec)
        codes = dense_codes(decoded)
        assert codes is not None
        return Point(
            num_bytes=len(frame),
            snr_db=snr_db(scaled, decoded.values()),
            entropy_bytes=entropy_bytes(codes, lengths=case.mask.lengths),
        )

    return Curve(coder=code, low=_LOW, high=_HIGH)
