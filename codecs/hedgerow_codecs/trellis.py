"""Codec ``trellis``: two quantisers in turns, for updates that are to be sent well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hedgerow_codecs.config import check_number
from hedgerow_codecs.grid_codec import GridCodec
from hedgerow_codecs.stages.signal import Stage
from hedgerow_codecs.stages.trellis_coder import TrellisCoder


@dataclass(frozen=True, slots=True, kw_only=True)
class TrellisCodec(GridCodec):
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

    def _stages(self) -> tuple[Stage, ...]:
        return (TrellisCoder(step=self.step, tradeoff=self.tradeoff),)
