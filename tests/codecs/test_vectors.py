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
from hedgerow_codecs.stages.pattern import fit_patterns

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs-v1.json").read_text())
LAYOUT = Layout.from_bytes(bytes.fromhex(VECTORS["layout"]))


def mask_of(name: str) -> Mask:
    packed = np.frombuffer(bytes.fromhex(VECTORS[name]), np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=LAYOUT.num_parameters)
    return Mask(layout=LAYOUT, live=bits.astype(np.bool_))


@pytest.mark.parametrize(
    ("of", "vector"),
    [("values", vector) for vector in VECTORS["updates"]]
    + [("patterned_values", vector) for vector in VECTORS["patterned"]],
    ids=lambda value: value if isinstance(value, str) else str(value["config"]),
)
def test_updates(of: str, vector: dict) -> None:
    mask, base = mask_of("live"), bytes.fromhex(VECTORS["base"])
    frame = bytes.fromhex(vector["frame"])
    decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=base)
    assert decoded.values().tobytes().hex() == vector["values"]
    values = np.frombuffer(bytes.fromhex(VECTORS[of]), "<f4")
    codec = codec_from_config(vector["config"])
    assert encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=base, codec=codec) == frame


def test_patterns_are_in_the_vectors() -> None:
    for vector in VECTORS["patterned"]:
        frame, base = bytes.fromhex(vector["frame"]), bytes.fromhex(VECTORS["base"])
        decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask_of("live"), base=base)
        assert decoded.positions is not None
        assert decoded.codes is not None
        patterns = fit_patterns(decoded.positions, decoded.codes, mask=decoded.mask).of_tensors
        assert [pattern is not None for pattern in patterns] == [False, False, True, False]


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
