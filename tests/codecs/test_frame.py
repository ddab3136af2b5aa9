"""Frames: what they say, and what they refuse."""

from __future__ import annotations

import time
import tracemalloc
import zlib

import numpy as np
import pytest

from hedgerow_codecs import (
    NO_BASE,
    ChecksumError,
    CodecError,
    ForeignFrameError,
    FrameKind,
    KindError,
    Layout,
    Mask,
    MismatchError,
    TensorSpec,
    TruncatedFrameError,
    codec_from_config,
    decode_frame,
    decode_mask,
    decode_seeded,
    encode_frame,
    encode_mask,
    encode_seeded,
    max_frame_bytes,
    model_digest,
    read_header,
)

CODEC_IDS = ("float32", "fp16", "uniform", "deadzone", "topk", "integer", "ternary", "randk", "trellis")
BASE = bytes(range(16))


def sealed(frame: bytes) -> bytes:
    """Give a tampered frame a checksum that fits."""
    return frame[:-4] + zlib.crc32(frame[:-4]).to_bytes(4, "little")


def update(values, mask: Mask, codec_id: str = "deadzone", kind: FrameKind = FrameKind.UPDATE) -> bytes:
    return encode_frame(
        values, kind=kind, mask=mask, base=BASE, codec=codec_from_config({"codec_id": codec_id})
    )


def test_the_header_says_what_the_frame_is_for(values, mask: Mask) -> None:
    frame = update(values, mask)
    header = read_header(frame)
    assert (header.kind, header.version, header.codec) == (FrameKind.UPDATE, 1, {"codec_id": "deadzone"})
    assert (header.layout, header.mask, header.base) == (b"", mask.digest[:4], BASE[:4])
    assert (header.frame_bytes, header.payload_bytes) == (len(frame), len(frame) - 17)
    assert header.is_for(mask=mask, base=BASE)
    assert not header.is_for(mask=mask, base=NO_BASE)
    assert not header.is_for(mask=Mask.dense(mask.layout), base=BASE)


def test_what_goes_down_names_whole_digests(values, mask: Mask) -> None:
    header = read_header(update(values, mask, kind=FrameKind.MODEL_DELTA))
    assert (header.layout, header.mask, header.base) == (mask.layout.digest, mask.digest, BASE)


@pytest.mark.parametrize(
    "kind", [FrameKind.UPDATE, FrameKind.MODEL_DELTA, FrameKind.KEYFRAME, FrameKind.SCORES]
)
def test_every_kind_of_values_round_trips(values, mask: Mask, kind: FrameKind) -> None:
    frame = update(values, mask, "float32", kind)
    assert np.array_equal(decode_frame(frame, kind=kind, mask=mask, base=BASE).values(), values)


def test_a_frame_for_something_else_is_refused(values, mask: Mask, layout: Layout) -> None:
    frame = update(values, mask)
    other = mask.live.copy()
    other[:2] = other[1::-1]  # as many live parameters: only the digest can tell
    renamed = Layout(
        tensors=(
            TensorSpec(name="conv.w", shape=(4, 1, 3, 3), kind="conv", prunable=True),
            *layout.tensors[1:],
        )
    )
    for mask_, base, what in (
        (Mask(layout=layout, live=other), BASE, "mask"),
        (Mask(layout=renamed, live=mask.live), BASE, "mask"),
        (mask, NO_BASE, "base"),
    ):
        with pytest.raises(MismatchError, match=f"made for {what}") as caught:
            decode_frame(frame, kind=FrameKind.UPDATE, mask=mask_, base=base)
        assert caught.value.what == what
    with pytest.raises(KindError, match="KEYFRAME, got UPDATE"):
        decode_frame(frame, kind=FrameKind.KEYFRAME, mask=mask, base=BASE)
    with pytest.raises(KindError):
        decode_frame(encode_mask(mask), kind=FrameKind.MASK, mask=mask, base=NO_BASE)
    with pytest.raises(KindError):
        encode_frame(
            values, kind=FrameKind.MASK, mask=mask, base=BASE, codec=codec_from_config({"codec_id": "fp16"})
        )


@pytest.mark.parametrize(
    ("place", "byte", "words"),
    [
        (0, 0x47, "starts with"),
        (2, 2, "version 2"),
        (3, 0, "kind 0"),
        (3, 99, "kind 99"),
        (4, 0, "codec 0"),
        (4, 77, "codec 77"),
    ],
)
def test_foreign_bytes_are_refused(values, mask: Mask, place: int, byte: int, words: str) -> None:
    frame = bytearray(update(values, mask))
    frame[place] = byte
    with pytest.raises(ForeignFrameError, match=words) as caught:
        read_header(sealed(bytes(frame)))
    assert caught.value.offset in (0, place)


def frames(values, mask: Mask) -> list:
    """Return one frame of each sort, with what decodes it."""
    previous = Mask.dense(mask.layout)

    def decode_update(frame: bytes):
        return decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=BASE)

    return [
        *((update(values, mask, codec_id), decode_update) for codec_id in CODEC_IDS),
        (encode_mask(mask), lambda frame: decode_mask(frame, layout=mask.layout)),
        (
            encode_mask(mask, previous=previous),
            lambda frame: decode_mask(frame, layout=mask.layout, previous=previous),
        ),
        (encode_seeded(mask.layout, seed=1), lambda frame: decode_seeded(frame, layout=mask.layout)),
    ]


@pytest.mark.parametrize("number", range(11))
def test_damage_anywhere_is_found(values, mask: Mask, number: int) -> None:
    frame, decode = frames(values, mask)[number]
    decode(frame)
    for end in range(len(frame)):
        with pytest.raises((ChecksumError, TruncatedFrameError, ForeignFrameError)):
            decode(frame[:end])
    with pytest.raises(ChecksumError):
        decode(frame + b"\0")
    for place in range(len(frame)):
        damaged = bytearray(frame)
        damaged[place] ^= 0x55
        with pytest.raises(CodecError):
            decode(bytes(damaged))


@pytest.mark.parametrize("number", range(11))
def test_a_frame_made_to_fit_its_checksum_still_only_raises_our_error(
    values, mask: Mask, number: int
) -> None:
    frame, decode = frames(values, mask)[number]
    rng = np.random.default_rng(number)
    start = time.monotonic()
    for end in range(len(frame) - 4):
        try_to_decode(sealed(frame[:end] + bytes(4)), decode)
    for place in range(len(frame) - 4):
        for byte in {frame[place] ^ 1, int(rng.integers(256))}:
            damaged = bytearray(frame)
            damaged[place] = byte
            try_to_decode(sealed(bytes(damaged)), decode)
    for _ in range(60):
        damaged = bytearray(frame)
        for place in rng.integers(13, len(frame), 3):
            damaged[place] = int(rng.integers(256))
        try_to_decode(sealed(bytes(damaged)), decode)
    assert time.monotonic() - start < 60


def try_to_decode(frame: bytes, decode) -> None:
    try:
        decoded = decode(frame)
    except CodecError:
        return
    if hasattr(decoded, "values"):
        assert np.all(np.isfinite(decoded.values()))


@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_noise_never_costs_more_than_the_model(mask: Mask, codec_id: str) -> None:
    codec = codec_from_config({"codec_id": codec_id})
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        for size in (0, 1, 2, 3, 5, 8, 20, 100, 400):
            for _ in range(40):
                noise = bytearray(rng.bytes(size))
                if size:
                    noise[0] &= 3  # few lanes, as a small mask has
                try_to_decode(bytes(noise), lambda payload: codec.decode(payload, mask=mask))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [3, 4, 6, 8, 9])
def test_lies_about_counts_are_refused_at_once(values, mask: Mask, number: int) -> None:
    frame, decode = frames(values, mask)[number]
    start = 13 if number < 8 else 53
    tracemalloc.start()
    try:
        for place in range(start, len(frame) - 4):
            for claim in (b"\xff\xff\xff\xff\x0f", b"\xff\x7f"):
                lie = frame[:place] + claim + frame[place + 1 :]
                with pytest.raises(CodecError):
                    decode(sealed(lie))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_no_frame_is_larger_than_the_bound(mask: Mask, layout: Layout) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=mask.num_live).astype(np.float32)
    for codec_id in CODEC_IDS:
        assert len(update(noise, mask, codec_id)) <= max_frame_bytes(layout)
    assert len(encode_mask(mask)) <= max_frame_bytes(layout)


def test_a_model_is_known_by_its_live_bits(mask: Mask) -> None:
    flat = np.arange(107, dtype=np.float32)
    digest = model_digest(flat, mask=mask)
    pruned, live = flat.copy(), flat.copy()
    pruned[0] = 9
    live[1] = 9
    assert model_digest(pruned, mask=mask) == digest
    assert model_digest(live, mask=mask) != digest
    assert model_digest(flat, mask=Mask.dense(mask.layout)) != digest
    assert digest.hex() == "82968a742cf8310b597218b49ee031b6"
