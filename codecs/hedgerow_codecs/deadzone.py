"""Codec ``deadzone``: one step for all, and a wide zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hedgerow_codecs.config import check_number
from hedgerow_codecs.grid_codec import WRITE_CODES, GridCodec
from hedgerow_codecs.stages.quantize import DeadzoneQuantizer
from hedgerow_codecs.stages.signal import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadzoneCodec(GridCodec):
    """Rounds to multiples of one step, with a zero bin wide enough to leave most entries out.

    Use it with error feedback, which keeps what the zero bin swallows.

    Parameters
    ----------
    step : float
        In root mean squares of the update; 2**-10 to 64 inclusive. Larger sends fewer bytes.
    deadzone : float
        Half-width of the zero bin in steps; 0.5 (plain rounding) to 1 inclusive.
    tradeoff : float
        Squared steps of error that a bit is worth; 0 to 1 inclusive. Above 0, lone codes in quiet rows and
        columns are left to error feedback.
    """

    codec_id: ClassVar[str] = "deadzone"

    step: float = 2.0
    deadzone: float = 0.6
    tradeoff: float = 0.18

    def __post_init__(self) -> None:
        check_number(self, "step", low=2**-10, high=64)
        check_number(self, "deadzone", low=0.5, high=1)
        check_number(self, "tradeoff", low=0, high=1)

    def _stages(self) -> tuple[Stage, ...]:
        return (
            DeadzoneQuantizer(step=self.step, deadzone=self.deadzone, tradeoff=self.tradeoff),
            WRITE_CODES,
        )
