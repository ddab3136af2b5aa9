"""Codec ``topk``: the largest entries only, in a few bits each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hedgerow_codecs.config import check_number
from hedgerow_codecs.grid_codec import WRITE_CODES, GridCodec
from hedgerow_codecs.stages.quantize import UniformQuantizer
from hedgerow_codecs.stages.select import KeepLargest
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKCodec(GridCodec):
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

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepLargest(fraction=self.fraction), UniformQuantizer(bits=self.bits), WRITE_CODES)
