"""What a codec is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.mask import Mask


class Codec(Protocol):
    """Turns the live entries of an update into a payload and back (numcodecs' duck type).

    A payload says all that `decode` needs: any configuration of a codec decodes the payloads of any other.
    """

    @property
    def codec_id(self) -> str:
        """Name in the table of codecs."""
        ...

    def get_config(self) -> dict[str, object]:
        """Return ``{"codec_id": ..., ...}``, JSON only; `codec_from_config` makes an equal codec of it."""
        ...

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector, float32, shape ``(num_live,)``, as a payload; the same one each time.

        Raises
        ------
        UnencodableError
            Wrong shape or dtype, NaN, infinity or a magnitude that the codec does not take.
        """
        ...

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too, bit for bit."""
        ...

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload made under the same mask.

        Raises
        ------
        PayloadError
            For anything that `encode` does not write; never takes memory beyond a multiple of ``num_live``.
        """
        ...
