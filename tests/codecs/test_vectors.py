"""Bytes written once are read for ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hedgerow_codecs import (
    FrameKind,
    Layout,
    Mask,
    codec_from_config,
    decode_frame,
    decode_mask,
    decode_seeded,
    encode_frame,
    encode_mask,
    encode_seeded,
    seeded_parameters,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs-v1.json").read_text())
LAYOUT = Layout.from_bytes(bytes.fromhex(VECTORS["layout"]))


def mask_of(name: str) -> Mask:
    packed = np.frombuffer(bytes.fromhex(VECTORS[name]), np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=LAYOUT.num_parameters)
    return Mask(layout=LAYOUT, live=bits.astype(np.bool_))


@pytest.mark.parametrize("vector", VECTORS["updates"], ids=lambda vector: str(vector["config"]))
def test_updates(vector: dict) -> None:
    mask, base = mask_of("live"), bytes.fromhex(VECTORS["base"])
    frame = bytes.fromhex(vector["frame"])
    decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=base)
    assert decoded.values().tobytes().hex() == vector["values"]
    values = np.frombuffer(bytes.fromhex(VECTORS["values"]), "<f4")
    codec = codec_from_config(vector["config"])
    assert encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=base, codec=codec) == frame


def test_masks() -> None:
    mask, previous = mask_of("live"), mask_of("previous")
    whole, delta = bytes.fromhex(VECTORS["mask"]), bytes.fromhex(VECTORS["mask_delta"])
    assert decode_mask(whole, layout=LAYOUT) == mask
    assert decode_mask(delta, layout=LAYOUT, previous=previous) == mask
    assert encode_mask(mask) == whole
    assert encode_mask(mask, previous=previous) == delta


def test_seed() -> None:
    frame = bytes.fromhex(VECTORS["seeded"])
    assert np.array_equal(decode_seeded(frame, layout=LAYOUT), seeded_parameters(LAYOUT, seed=2026))
    assert encode_seeded(LAYOUT, seed=2026) == frame
