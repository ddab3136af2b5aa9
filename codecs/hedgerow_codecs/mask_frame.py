"""Masks on the wire: whole, or as the difference from the one before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import KindError, MaskError, MismatchError, PayloadError
from hedgerow_codecs.frame import NO_BASE, FrameKind, read_header, seal, unseal
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.mask_bits import decode_bits, encode_bits


def encode_mask(mask: Mask, *, previous: Mask | None = None) -> bytes:
    """Encode a mask as a frame: whole, or against the mask before it.

    Parameters
    ----------
    mask : Mask
    previous : Mask, optional
        The mask that the receiver has; the frame then says only what changed.

    Raises
    ------
    MaskError
        `previous` is of another layout.
    """
    bits = mask.live[mask.layout.prunable()]
    if previous is None:
        return seal(encode_bits(bits), kind=FrameKind.MASK, codec=0, mask=mask, base=NO_BASE)
    if previous.layout != mask.layout:
        raise MaskError("a mask can only be encoded against a mask of its own layout")
    changed = bits ^ previous.live[mask.layout.prunable()]
    return seal(encode_bits(changed), kind=FrameKind.MASK_DELTA, codec=0, mask=mask, base=previous.digest)


def decode_mask(frame: bytes, *, layout: Layout, previous: Mask | None = None) -> Mask:
    """Decode a mask frame; a delta frame needs the mask it was made against.

    Raises
    ------
    FrameError
        Damaged, not a mask, for another layout, against another mask, or not the mask that it names.
    """
    header = read_header(frame)
    if header.kind not in (FrameKind.MASK, FrameKind.MASK_DELTA):
        raise KindError(f"expected a mask, got a frame of kind {header.kind.name}", offset=3)
    base = NO_BASE
    if header.kind == FrameKind.MASK_DELTA:
        if previous is None:
            raise MismatchError(what="base", expected=NO_BASE, found=header.base)
        base = previous.digest
    payload = unseal(frame, layout=layout, mask=None, base=base)
    prunable = layout.prunable()
    bits = decode_bits(payload, count=int(np.count_nonzero(prunable)))
    live: NDArray[np.bool_] = np.ones(layout.num_parameters, np.bool_)
    if header.kind == FrameKind.MASK_DELTA and previous is not None:
        bits = bits ^ previous.live[prunable]
    live[prunable] = bits
    mask = Mask(layout=layout, live=live)
    if mask.digest != header.mask:
        raise PayloadError(f"frame holds mask {mask.digest.hex()}, but names {header.mask.hex()}")
    return mask
