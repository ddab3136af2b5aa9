"""Masks on the wire: whole, or as the difference from the one before."""

from __future__ import annotations

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
    if previous is None:
        payload = encode_bits(mask.live & mask.layout.prunable(), mask=Mask.dense(mask.layout))
        return seal(payload, kind=FrameKind.MASK, codec=0, mask=mask, base=NO_BASE)
    if previous.layout != mask.layout:
        raise MaskError("a mask can only be encoded against a mask of its own layout")
    changed = mask.live ^ previous.live
    parts = [encode_bits(side.gather(changed), mask=side) for side in (previous, previous.opposite())]
    return seal(b"".join(parts), kind=FrameKind.MASK_DELTA, codec=0, mask=mask, base=previous.digest)


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
    if previous is None or header.kind == FrameKind.MASK:
        bits, rest = decode_bits(payload, mask=Mask.dense(layout))
        live = bits | ~layout.prunable()
    else:
        dropped, rest = decode_bits(payload, mask=previous)
        grown, rest = decode_bits(rest, mask=previous.opposite())
        # Parameters that are not prunable are on both sides and never change.
        changed = previous.scatter(dropped) ^ previous.opposite().scatter(grown)
        live = (previous.live ^ changed) | ~layout.prunable()
    if rest:
        raise PayloadError(f"{len(rest)} bytes follow the mask")
    mask = Mask(layout=layout, live=live)
    if mask.digest != header.mask:
        raise PayloadError(f"frame holds mask {mask.digest.hex()}, but names {header.mask.hex()}")
    return mask
