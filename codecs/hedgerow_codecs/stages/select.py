"""Selection: which live entries are sent at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hedgerow_codecs.stages.signal import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAll:
    """Sends every live entry."""

    def encode(self, signal: Signal) -> Signal:
        return replace(signal, positions=np.arange(signal.mask.num_live, dtype=np.int64))

    def decode(self, signal: Signal) -> Signal:
        return signal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepLargest:
    """Sends the ``ceil(fraction * num_live)`` entries of largest magnitude; of equals, the first.

    Zeros are never chosen.
    """

    fraction: float

    def encode(self, signal: Signal) -> Signal:
        magnitudes = np.abs(signal.values)
        count = min(math.ceil(self.fraction * magnitudes.size), int(np.count_nonzero(magnitudes)))
        if count == 0:
            return replace(signal, values=signal.values[:0])
        # The value at the border is the same whatever partition algorithm numpy picks; the order of equals
        # is not.
        border = np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count]
        chosen = magnitudes > border
        equals = np.flatnonzero(magnitudes == border)
        chosen[equals[: count - int(np.count_nonzero(chosen))]] = True
        return replace(
            signal, values=signal.values[chosen], positions=np.flatnonzero(chosen).astype(np.int64)
        )

    def decode(self, signal: Signal) -> Signal:
        return signal
