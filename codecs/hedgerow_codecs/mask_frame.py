"""Masks on the wire: whole, or as the difference from the one before."""

from __future__ import annotations

from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask


def encode_mask(mask: Mask, *, previous: Mask | None = None) -> bytes:
    """Encode a mask as a frame, against `previous` if given."""
    raise NotImplementedError


def decode_mask(frame: bytes, *, layout: Layout, previous: Mask | None = None) -> Mask:
    """Decode a mask frame; a delta frame needs the mask it was made against."""
    raise NotImplementedError
