"""Codec ``ternary``: sparse ternary compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hedgerow_codecs.config import check_number
from hedgerow_codecs.grid_codec import WRITE_CODES, GridCodec
from hedgerow_codecs.stages.quantize import SignQuantizer
from hedgerow_codecs.stages.select import KeepLargest
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TernaryCodec(GridCodec):
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

    def _stages(self) -> tuple[Stage, ...]:
        return (KeepLargest(fraction=self.fraction), SignQuantizer(), WRITE_CODES)
