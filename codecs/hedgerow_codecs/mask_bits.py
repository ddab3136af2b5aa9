"""Bit vectors as bytes: the payload of a mask frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.context import ContextCoder
from hedgerow_codecs.stages.signal import Signal

_CODER = ContextCoder(signed=False)


def encode_bits(bits: NDArray[np.bool_], *, mask: Mask) -> bytes:
    """Encode one bit for each live parameter of `mask`, shape ``(num_live,)``, as codes of 1."""
    positions = np.flatnonzero(bits).astype(np.int64, copy=False)
    ones = np.broadcast_to(np.int32(1), positions.shape)  # takes no memory
    return _CODER.encode(Signal(mask=mask, positions=positions, codes=ones)).data


def decode_bits(payload: bytes, *, mask: Mask) -> tuple[NDArray[np.bool_], bytes]:
    """Decode one bit for each live parameter of `mask`; returns the bytes behind them, too.

    Raises
    ------
    PayloadError
        For anything that `encode_bits` does not write.
    """
    signal = _CODER.decode(Signal(mask=mask, data=payload))
    if np.any(signal.codes != 1):
        raise PayloadError("a bit is more than 1")
    bits = np.zeros(mask.num_live, np.bool_)
    bits[signal.positions] = True
    return bits, signal.data
