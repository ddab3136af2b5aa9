"""Codec ``uniform``: a few bits for each parameter, a step for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import check_number, config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.grid_codec import WRITE_CODES, decode_on_grid, encode_on_grid
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.quantize import UniformQuantizer
from hedgerow_codecs.stages.select import KeepAll
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformCodec:
    """Rounds every live parameter to ``2**bits - 1`` levels up to its tensor's largest magnitude.

    The error is at most half a step; the step at most 1.25 times ``largest / (2**(bits - 1) - 1)``.

    Parameters
    ----------
    bits : int
        1 to 16 inclusive. 1 sends signs times the tensor's mean magnitude.
    """

    codec_id: ClassVar[str] = "uniform"

    bits: int = 8

    def __post_init__(self) -> None:
        check_number(self, "bits", low=1, high=16)

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return config_of(self)

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector; `UnencodableError` for NaN, infinity and magnitudes above 2**125."""
        return self.encode_with_decoded(values, mask=mask)[0]

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        return encode_on_grid(self._stages(), values, mask=mask)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload of any ``uniform`` codec, whatever its settings; `PayloadError` if malformed."""
        return decode_on_grid(self._stages(), payload, mask=mask)

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepAll(), UniformQuantizer(bits=self.bits), WRITE_CODES)
