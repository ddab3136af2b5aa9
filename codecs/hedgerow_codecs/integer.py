"""Codec ``integer``: the plan's step for all clients, so that sums are sums of small integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import check_flag, check_number, config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.grid_codec import WRITE_CODES, decode_on_grid, encode_on_grid
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.pack import PackCodes
from hedgerow_codecs.stages.quantize import CommonQuantizer
from hedgerow_codecs.stages.reader import Reader, varint
from hedgerow_codecs.stages.signal import Stage

_CODED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerCodec:
    """Rounds to multiples of a step that is given, within a range that is given.

    All who share the configuration share the grid: their codes can be summed as they are, in any order, and
    under secure aggregation. What is beyond the range is cut to it, and counted in
    `DecodedUpdate.num_saturated`; with error feedback it is sent later.

    Parameters
    ----------
    step : float
        In units of the values, rounded to the grid of steps; 2**-140 to 2**100 inclusive.
    bits : int
        Codes are from ``-(2**(bits - 1) - 1)`` to ``2**(bits - 1) - 1``; 2 to 16 inclusive.
    packed : bool
        Whether every code takes `bits` bits, so that messages are equally long whatever they say; else they
        are coded in fewer.
    """

    codec_id: ClassVar[str] = "integer"

    step: float = 2**-12
    bits: int = 8
    packed: bool = False

    def __post_init__(self) -> None:
        check_number(self, "step", low=2**-140, high=2**100)
        check_number(self, "bits", low=2, high=16)
        check_flag(self, "packed")

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return config_of(self)

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector; `UnencodableError` for NaN, infinity and magnitudes above 2**125."""
        return self.encode_with_decoded(values, mask=mask)[0]

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        quantizer = CommonQuantizer(step=self.step, limit=2 ** (self.bits - 1) - 1)
        stages = (quantizer, PackCodes(bits=self.bits) if self.packed else WRITE_CODES)
        payload, decoded = encode_on_grid(stages, values, mask=mask)
        saturated = quantizer.saturated(values)
        form = bytes([self.bits if self.packed else _CODED])
        return form + varint(saturated) + payload, replace(decoded, num_saturated=saturated)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload of any ``integer`` codec, whatever its settings; `PayloadError` if malformed."""
        reader = Reader(payload)
        form, saturated = reader.byte(), reader.varint()
        if form != _CODED and not 2 <= form <= 16:
            raise PayloadError(f"codes are coded or have 2 to 16 bits, not {form}", offset=0)
        if saturated > mask.num_live:
            raise PayloadError(f"{saturated} of {mask.num_live} entries cannot be saturated", offset=1)
        read: Stage = WRITE_CODES if form == _CODED else PackCodes(bits=form)
        stages = (CommonQuantizer(step=self.step, limit=1), read)
        return replace(decode_on_grid(stages, reader.rest(), mask=mask), num_saturated=saturated)
