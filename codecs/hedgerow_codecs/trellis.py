"""Codec ``trellis``: two quantisers in turns, for updates that are to be sent well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import check_number, config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.grid_codec import decode_on_grid, encode_on_grid
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.signal import Stage
from hedgerow_codecs.stages.trellis_coder import TrellisCoder


@dataclass(frozen=True, slots=True, kw_only=True)
class TrellisCodec:
    """Trellis-coded quantisation: the error of a finer step for the bytes of a coarse one.

    It takes about twice as long to encode as ``deadzone`` and saves bytes where much is sent, at steps
    below one root mean square or so; at coarse steps ``deadzone`` takes fewer.

    Parameters
    ----------
    step : float
        Of each of the two quantisers, in root mean squares of the update; 2**-9 to 64 inclusive.
    tradeoff : float
        Squared steps of error that a bit is worth; 0 to 1 inclusive.
    """

    codec_id: ClassVar[str] = "trellis"

    step: float = 0.5
    tradeoff: float = 0.12

    def __post_init__(self) -> None:
        check_number(self, "step", low=2**-9, high=64)
        check_number(self, "tradeoff", low=0, high=1)

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
        """Decode a payload of any ``trellis`` codec, whatever its settings; `PayloadError` if malformed."""
        return decode_on_grid(self._stages(), payload, mask=mask)

    def _stages(self) -> tuple[Stage, ...]:
        return (TrellisCoder(step=self.step, tradeoff=self.tradeoff),)
