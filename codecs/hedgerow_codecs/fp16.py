"""Codec ``fp16``: half precision, with a power of two for each tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.live_values import check_decoded, check_encodable
from hedgerow_codecs.mask import Mask

_TOP_EXPONENT = 15  # values are scaled to stay below 2**15, so that rounding up cannot reach infinity
_MAX_SHIFT = 164  # of the smallest subnormal float32, 2**-149, to just below 2**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp16Codec:
    """IEEE half precision of each tensor scaled by a power of two.

    Deltas of a model are often smaller than half precision's normal range, 6e-5: unscaled, they would lose
    most of their bits. With the scale, the relative error is at most 2**-11 down to 2**-29 of the tensor's
    largest value.
    """

    codec_id: ClassVar[str] = "fp16"

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return {"codec_id": self.codec_id}

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector, shape ``(num_live,)``; `UnencodableError` for NaN and infinity."""
        check_encodable(values, mask=mask)
        shifts = np.zeros(len(mask.lengths), "<i2")
        halves = np.empty(values.size, "<f2")
        for tensor, (start, end) in enumerate(_spans(mask)):
            part = values[start:end]
            largest = float(np.max(np.abs(part), initial=0))
            if largest > 0:
                shifts[tensor] = _TOP_EXPONENT - math.frexp(largest)[1]
            halves[start:end] = np.ldexp(part.astype(np.float64), int(shifts[tensor]))
        return shifts.tobytes() + halves.tobytes()

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        payload = self.encode(values, mask=mask)
        return payload, self.decode(payload, mask=mask)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload; `PayloadError` for a wrong size, a wild scale, NaN or infinity."""
        head = 2 * len(mask.lengths)
        if len(payload) != head + 2 * mask.num_live:
            raise PayloadError(
                f"{mask.num_live} halves in {len(mask.lengths)} tensors"
                f" take {head + 2 * mask.num_live} bytes, got {len(payload)}"
            )
        shifts = np.frombuffer(payload, "<i2", count=len(mask.lengths)).tolist()
        halves = np.frombuffer(payload, "<f2", offset=head)
        values = np.empty(mask.num_live, np.float32)
        for tensor, (start, end) in enumerate(_spans(mask)):
            if not _TOP_EXPONENT - 128 <= shifts[tensor] <= _MAX_SHIFT:
                raise PayloadError(f"scale 2**{shifts[tensor]} is out of range", offset=2 * tensor)
            # A scale or a half may lie; what is not finite is refused just below.
            with np.errstate(over="ignore", invalid="ignore"):
                values[start:end] = np.ldexp(halves[start:end].astype(np.float64), -shifts[tensor])
        check_decoded(values, mask=mask)
        return DecodedUpdate(mask=mask, dense=values)


def _spans(mask: Mask) -> list[tuple[int, int]]:
    ends = np.cumsum((0, *mask.lengths)).tolist()
    return list(pairwise(ends))
