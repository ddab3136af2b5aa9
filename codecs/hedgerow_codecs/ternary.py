"""Codec ``ternary``: sparse ternary compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import check_number, config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.grid_codec import WRITE_CODES, decode_on_grid, encode_on_grid
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.quantize import SignQuantizer
from hedgerow_codecs.stages.select import KeepLargest
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TernaryCodec:
    """Sends the signs of the entries that moved most, and their mean magnitude (Sattler 2020, algorithm 1).

    Use it with error feedback, as the paper does. Its Golomb code for positions is replaced by the context
    coder, which takes fewer bytes.

    Parameters
    ----------
    fraction : float
        Of the live parameters; above 0, to 1 inclusive. The paper's are 1/25 to 1/400.
    """

    codec_id: ClassVar[str] = "ternary"

    fraction: float = 0.01

    def __post_init__(self) -> None:
        check_number(self, "fraction", low=1e-9, high=1)

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
        """Decode a payload of any ``ternary`` codec, whatever its settings; `PayloadError` if malformed."""
        return decode_on_grid(self._stages(), payload, mask=mask)

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepLargest(fraction=self.fraction), SignQuantizer(), WRITE_CODES)
