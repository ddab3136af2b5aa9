"""Trellis-coded quantisation and its coding, in one stage: the path runs through what the coder tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.stages.context import ContextCoder, path_lanes
from hedgerow_codecs.stages.energy import fit_all_levels, live_classes
from hedgerow_codecs.stages.quantize import DeadzoneQuantizer, code_bits, in_steps, read_steps, sampled
from hedgerow_codecs.stages.signal import Signal
from hedgerow_codecs.stages.trellis import choose_indices, path_of, to_units

_WRITE = ContextCoder(trellis=True)
_RARELY = 2.0**-8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrellisCoder:
    """Codes each entry by one of two quantisers of a step, which together are as fine as half of it.

    Parameters
    ----------
    step : float
        Times the root mean square of the update; half of it is rounded to the grid.
    tradeoff : float
        Squared steps of error that a bit is worth.
    """

    step: float
    tradeoff: float

    def encode(self, signal: Signal) -> Signal:
        # What plain rounding makes of it tells where there is anything, and what indices will cost there.
        plain = DeadzoneQuantizer(step=self.step / 2, deadzone=0.6, tradeoff=0.0).encode(signal)
        unit = float(plain.steps[0]) if plain.steps.size else 1.0
        rough = (np.abs(plain.codes.astype(np.int64)) + 1) // 2
        if not rough.size:
            return replace(plain, data=b"\0" + plain.data)
        levels = fit_all_levels(plain.positions, rough, mask=signal.mask)
        classes = live_classes(levels, mask=signal.mask)
        told = np.flatnonzero(classes > 0)
        first, more = code_bits(
            classes[sampled(classes.size)], classes[plain.positions], rough, num_live=classes.size
        )
        of_told = classes[told]
        scaled = in_steps(signal.values[told], unit)
        indices = choose_indices(
            np.abs(scaled),
            _in_small_units(first)[of_told],
            _in_small_units(more)[of_told],
            tradeoff=4 * self.tradeoff,
            lanes=path_lanes(told.size),
        )
        chosen = np.flatnonzero(indices > 0)
        if not chosen.size:
            return replace(plain, positions=told[:0], codes=plain.codes[:0], data=b"\0" + plain.data)
        units = to_units(indices, path_of(indices % 2 > 0, lanes=path_lanes(told.size)))[chosen]
        codes = np.copysign(units, scaled[chosen]).astype(np.int32)
        return _WRITE.encode_path(
            replace(plain, positions=told[chosen], codes=codes), indices[chosen], levels
        )

    def decode(self, signal: Signal) -> Signal:
        return read_steps(_WRITE.decode(signal))


def _in_small_units(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round, so that what a machine's logarithm has in its last bits does not show."""
    rounded: NDArray[np.float64] = np.rint(bits / _RARELY) * _RARELY
    return rounded
