"""Distortion and entropy: what bytes are compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import DecodedUpdate


def snr_db(values: NDArray[np.float32], decoded: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio of a decoded vector in decibels, infinity where nothing is lost."""
    wide = values.astype(np.float64)
    noise = float(np.sum(np.square(wide - decoded)))
    signal = float(np.sum(np.square(wide)))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def entropy_bytes(codes: NDArray[np.integer], *, lengths: Sequence[int]) -> float:
    """Return the zeroth-order entropy of codes, tensor by tensor, in bytes; tables are not counted.

    Parameters
    ----------
    codes : ndarray of integers, shape (num_live,)
    lengths : sequence of int
        Entries of each tensor.
    """
    bits, start = 0.0, 0
    for length in lengths:
        _, counts = np.unique(codes[start : start + length], return_counts=True)
        start += length
        shares = counts / max(length, 1)
        bits -= length * float(np.sum(shares * np.log2(shares)))
    return bits / 8


def dense_codes(decoded: DecodedUpdate) -> NDArray[np.int32] | None:
    """Return the integer codes of all live entries; None for an update that has none."""
    if decoded.positions is None or decoded.codes is None:
        return None
    codes = np.zeros(decoded.mask.num_live, np.int32)
    codes[decoded.positions] = decoded.codes
    return codes


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
