"""Codec ``topk``: the largest entries only, in a few bits each."""

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
from hedgerow_codecs.stages.select import KeepLargest
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKCodec:
    """Sends the share of live parameters that moved most, each with few bits.

    With one bit this is sparse ternary compression (Sattler 2020, algorithm 1), with a mean magnitude for
    each tensor instead of one for all. Use it with error feedback.

    Parameters
    ----------
    fraction : float
        Of the live parameters; above 0, to 1 inclusive.
    bits : int
        1 to 16 inclusive; 1 sends signs times the tensor's mean chosen magnitude.
    """

    codec_id: ClassVar[str] = "topk"

    fraction: float = 0.01
    bits: int = 4

    def __post_init__(self) -> None:
        check_number(self, "fraction", low=1e-9, high=1)
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
        """Decode a payload of any ``topk`` codec, whatever its settings; `PayloadError` if malformed."""
        return decode_on_grid(self._stages(), payload, mask=mask)

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepLargest(fraction=self.fraction), UniformQuantizer(bits=self.bits), WRITE_CODES)
