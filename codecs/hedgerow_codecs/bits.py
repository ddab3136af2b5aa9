"""Codec ``bits``: a yes or no for each live parameter, in at most one bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import PayloadError, UnencodableError
from hedgerow_codecs.live_values import check_encodable
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.mask_bits import decode_bits, encode_bits

_PACKED, _ONES, _ZEROS = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsCodec:
    """Zeros and ones: packed, or as the places of the ones or of the zeros, whatever is shortest."""

    codec_id: ClassVar[str] = "bits"

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return {"codec_id": self.codec_id}

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector, shape ``(num_live,)``; `UnencodableError` for other values than 0 and 1."""
        check_encodable(values, mask=mask)
        ones = values == 1
        if not (ones | (values == 0)).all():
            other = values[~(ones | (values == 0))][0]
            raise UnencodableError(f"codec 'bits' takes 0 and 1, got {other:g}")
        packed = bytes([_PACKED]) + np.packbits(ones, bitorder="little").tobytes()
        coded = (
            bytes([_ONES]) + encode_bits(ones, mask=mask),
            bytes([_ZEROS]) + encode_bits(~ones, mask=mask),
        )
        return min(packed, *coded, key=len)

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        payload = self.encode(values, mask=mask)
        return payload, _decoded(values == 1, mask=mask)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload; `PayloadError` for anything that `encode` does not write."""
        form, rest = payload[:1], payload[1:]
        if form == bytes([_PACKED]):
            if len(rest) != (mask.num_live + 7) // 8:
                raise PayloadError(
                    f"{mask.num_live} bits take {(mask.num_live + 7) // 8} bytes, got {len(rest)}"
                )
            bits = np.unpackbits(np.frombuffer(rest, np.uint8), bitorder="little")
            if bits[mask.num_live :].any():
                raise PayloadError("there are ones behind the last bit", offset=len(payload) - 1)
            return _decoded(bits[: mask.num_live].astype(np.bool_), mask=mask)
        if form not in (bytes([_ONES]), bytes([_ZEROS])):
            raise PayloadError(f"bits are written in form 0, 1 or 2, not {form.hex() or 'none'}", offset=0)
        found, behind = decode_bits(rest, mask=mask)
        if behind:
            raise PayloadError(f"{len(behind)} bytes follow the bits")
        return _decoded(found if form == bytes([_ONES]) else ~found, mask=mask)


def _decoded(ones: NDArray[np.bool_], *, mask: Mask) -> DecodedUpdate:
    positions = np.flatnonzero(ones).astype(np.int64, copy=False)
    held = np.diff(np.searchsorted(positions, np.cumsum(mask.lengths)), prepend=0) > 0
    return DecodedUpdate(
        mask=mask,
        positions=positions,
        codes=np.ones(positions.size, np.int32),
        steps=held.astype(np.float64),
    )
