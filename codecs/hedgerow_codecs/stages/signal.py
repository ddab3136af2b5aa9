"""What passes between stages, and how a tuple of stages is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.mask import Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signal:
    """An update on its way through a pipeline; each stage replaces what it changes.

    Parameters
    ----------
    mask : Mask
        Known at both ends.
    values : ndarray, float32, shape (num_live,) or (k,)
        What there is to send; (k,) once positions are chosen.
    positions : ndarray, int64, shape (k,)
        Chosen places in the live vector, strictly ascending.
    codes : ndarray, int32, shape (k,)
    steps : ndarray, float64, shape (num_tensors,)
    data : bytes
        What has been written so far.
    """

    mask: Mask
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    codes: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    steps: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    data: bytes = b""


class Stage(Protocol):
    """One step of a codec. `decode` undoes what can be undone of `encode`."""

    def encode(self, signal: Signal) -> Signal: ...

    def decode(self, signal: Signal) -> Signal: ...


def run_encode(stages: Sequence[Stage], signal: Signal) -> Signal:
    """Pass a signal forwards through a pipeline."""
    for stage in stages:
        signal = stage.encode(signal)
    return signal


def run_decode(stages: Sequence[Stage], signal: Signal) -> Signal:
    """Pass a signal backwards through a pipeline."""
    for stage in reversed(stages):
        signal = stage.decode(signal)
    return signal
