"""Codec ``uniform``: a few bits for each parameter, a step for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hedgerow_codecs.config import check_number
from hedgerow_codecs.grid_codec import WRITE_CODES, GridCodec
from hedgerow_codecs.stages.quantize import UniformQuantizer
from hedgerow_codecs.stages.select import KeepAll
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformCodec(GridCodec):
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

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepAll(), UniformQuantizer(bits=self.bits), WRITE_CODES)
