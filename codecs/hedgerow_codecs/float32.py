"""Codec ``float32``: the values as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.live_values import check_decoded, check_encodable
from hedgerow_codecs.mask import Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32Codec:
    """Lossless: four bytes for each live parameter, little-endian."""

    codec_id: ClassVar[str] = "float32"

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return {"codec_id": self.codec_id}

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector, shape ``(num_live,)``; `UnencodableError` for NaN and infinity."""
        check_encodable(values, mask=mask)
        return values.astype("<f4", copy=False).tobytes()

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        payload = self.encode(values, mask=mask)
        return payload, self.decode(payload, mask=mask)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload; `PayloadError` for a wrong size, NaN or infinity."""
        if len(payload) != 4 * mask.num_live:
            raise PayloadError(f"{mask.num_live} float32 take {4 * mask.num_live} bytes, got {len(payload)}")
        values = np.frombuffer(payload, "<f4").astype(np.float32)
        check_decoded(values, mask=mask)
        return DecodedUpdate(mask=mask, dense=values)
