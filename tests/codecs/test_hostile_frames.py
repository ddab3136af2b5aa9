"""Golden vectors cut at every length, with every byte changed: our own errors, in bounded time and memory.

The default run tries some of all places, the same ones each time; ``-m slow`` tries all.
"""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hedgerow_codecs import (
    NO_BASE,
    CodecError,
    DecodedUpdate,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    TruncatedFrameError,
    codec_from_config,
    decode_frame,
    decode_mask,
    decode_seeded,
    encode_frame,
    encode_mask,
    max_decode_bytes,
    max_frame_bytes,
)
from hedgerow_codecs.frame import seal
from hedgerow_codecs.stages.context import ContextCoder
from hedgerow_codecs.stages.signal import Signal

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs-v1.json").read_text())
LAYOUT = Layout.from_bytes(bytes.fromhex(VECTORS["layout"]))
BASE = bytes.fromhex(VECTORS["base"])
MAX_CPU_S = 0.1
CHANGES = (0x01, 0x10, 0x80, 0x55, 0xFF)  # of bits; 0xFF is all of them
STRIDE = 43

Decode = Callable[[bytes], object]


def mask_of(name: str) -> Mask:
    packed = np.frombuffer(bytes.fromhex(VECTORS[name]), np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=LAYOUT.num_parameters)
    return Mask(layout=LAYOUT, live=bits.astype(np.bool_))


LIVE, PREVIOUS = mask_of("live"), mask_of("previous")


def decode_update(frame: bytes) -> object:
    return decode_frame(frame, kind=FrameKind.UPDATE, mask=LIVE, base=BASE)


FRAMES: dict[str, tuple[bytes, Decode]] = {
    **{
        f"{number}-{update['config']['codec_id']}": (bytes.fromhex(update["frame"]), decode_update)
        for number, update in enumerate(VECTORS["updates"] + VECTORS["patterned"])
    },
    "mask": (bytes.fromhex(VECTORS["mask"]), lambda frame: decode_mask(frame, layout=LAYOUT)),
    "mask_delta": (
        bytes.fromhex(VECTORS["mask_delta"]),
        lambda frame: decode_mask(frame, layout=LAYOUT, previous=PREVIOUS),
    ),
    "seeded": (bytes.fromhex(VECTORS["seeded"]), lambda frame: decode_seeded(frame, layout=LAYOUT)),
}
EVERY_VECTOR = pytest.mark.parametrize("name", FRAMES)


@pytest.fixture
def traced() -> Iterator[None]:
    """Count allocations throughout: to start and stop for each attempt would take more time than decoding."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def attempt(frame: bytes, decode: Decode) -> object | None:
    """Decode; None when the frame is refused. Fails for another error, or for too much time or memory."""
    bound = 2 * max_decode_bytes(Mask.dense(LAYOUT))
    for last in (False, True):
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.process_time()
        try:
            decoded = decode(frame)
        except CodecError:
            decoded = None
        seconds = time.process_time() - start
        assert tracemalloc.get_traced_memory()[1] - before <= bound
        if seconds <= MAX_CPU_S or last:
            break
    assert seconds <= MAX_CPU_S  # twice: once may be another's fault
    return decoded


def sealed(body: bytes) -> bytes:
    """Put a checksum that fits behind a frame without one."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def check_damage(name: str, *, stride: int) -> None:
    """Without the sender's help, damage of any one byte and any cut is found."""
    frame, decode = FRAMES[name]
    assert attempt(frame, decode) is not None
    for end in range(len(frame) % stride, len(frame), stride):
        assert attempt(frame[:end], decode) is None
    places = [(place, change) for place in range(len(frame)) for change in CHANGES]
    for place, change in places[::stride]:
        damaged = bytearray(frame)
        damaged[place] ^= change
        # A CRC-32 finds every change within 32 bits, not just most.
        assert attempt(bytes(damaged), decode) is None


def check_attack(name: str, *, stride: int) -> None:
    """With a checksum that fits, a frame is refused, or says something that a receiver can live with."""
    frame, decode = FRAMES[name]
    body = frame[:-4]
    bodies = [body[:end] for end in range(len(body))] + [body + bytes([more]) for more in range(256)]
    for place in range(len(body)):
        for change in CHANGES:
            changed = bytearray(body)
            changed[place] ^= change
            bodies.append(bytes(changed))
    outcomes = [check_outcome(attempt(sealed(hostile), decode)) for hostile in bodies[::stride]]
    assert "refused" in outcomes
    if name in ("mask", "mask_delta", "seeded"):  # these name what they decode to: no other frame fits
        assert set(outcomes) == {"refused"}


def check_outcome(decoded: object | None) -> str:
    if decoded is None:
        return "refused"
    assert isinstance(decoded, DecodedUpdate)
    values = decoded.values()
    assert values.shape == (LIVE.num_live,)
    assert np.all(np.isfinite(values))
    if decoded.positions is not None:
        assert np.all(np.diff(decoded.positions) > 0)
        assert np.all(decoded.codes != 0)
    total = np.zeros(LIVE.num_live)
    decoded.add_to(total, weight=1)
    assert np.array_equal(total, values.astype(np.float64))
    return "decoded"


@EVERY_VECTOR
@pytest.mark.usefixtures("traced")
def test_damage_is_found(name: str) -> None:
    check_damage(name, stride=STRIDE)


@EVERY_VECTOR
@pytest.mark.usefixtures("traced")
def test_an_attack_costs_no_more_than_its_bound(name: str) -> None:
    check_attack(name, stride=STRIDE)


@pytest.mark.parametrize("name", ["mask", "mask_delta"])
def test_no_other_frame_has_the_same_mask(name: str) -> None:
    frame, decode = FRAMES[name]
    for place in range(len(frame) - 4):
        for bit in range(8):
            changed = bytearray(frame[:-4])
            changed[place] ^= 1 << bit
            with pytest.raises(CodecError):
                decode(sealed(bytes(changed)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@EVERY_VECTOR
@pytest.mark.usefixtures("traced")
def test_damage_is_found_everywhere(name: str) -> None:
    check_damage(name, stride=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@EVERY_VECTOR
@pytest.mark.usefixtures("traced")
def test_no_attack_costs_more_than_its_bound(name: str) -> None:
    check_attack(name, stride=1)


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        assert call() is not None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "shapes",
    [[(200, 150)], [(30_000, 1)], [(1, 30_000)], [(8, 8, 20, 20)], [(30_000,)], [(2, 5)] * 150, [()] * 150],
    ids=["matrix", "rows", "columns", "convolution", "vector", "many", "scalars"],
)
@pytest.mark.parametrize("density", [1.0, 0.05])
def test_memory_stays_within_its_bound_whatever_the_model(
    shapes: list[tuple[int, ...]], density: float
) -> None:
    layout = Layout(
        tensors=tuple(
            TensorSpec(name=f"t{i}", shape=shape, kind="other", prunable=True)
            for i, shape in enumerate(shapes)
        )
    )
    rng = np.random.default_rng(4)
    mask = Mask(layout=layout, live=rng.random(layout.num_parameters) < density)
    largest = np.where(rng.random(mask.num_live) < 0.5, 2**21 - 1, 1 - 2**21).astype(np.int32)
    ones = np.where(rng.random(mask.num_live) < 0.5, 1, -1).astype(np.int32)
    for codes in (largest, ones):  # the most raw bits, the most signs
        signal = Signal(mask=mask, positions=np.arange(mask.num_live), codes=codes)
        payload = ContextCoder().encode(signal).data + b"\0\0"
        frame = seal(payload, kind=FrameKind.UPDATE, codec=4, mask=mask, base=BASE)

        def decode(frame: bytes = frame) -> object:
            return decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=BASE)

        assert peak_of(decode) <= max_decode_bytes(mask)
    frame = encode_mask(mask)
    assert peak_of(lambda: decode_mask(frame, layout=layout)) <= max_decode_bytes(Mask.dense(layout))


@pytest.mark.parametrize("codec_id", ["float32", "fp16", "uniform", "integer", "randk"])
def test_memory_of_plain_payloads_stays_within_its_bound(codec_id: str) -> None:
    layout = Layout(tensors=(TensorSpec(name="w", shape=(200, 300), kind="linear", prunable=True),))
    mask = Mask.dense(layout)
    settings = {"integer": {"packed": True, "bits": 16}, "randk": {"fraction": 1.0, "bits": 16}}
    codec = codec_from_config({"codec_id": codec_id, **settings.get(codec_id, {})})
    values = np.random.default_rng(5).normal(size=mask.num_live).astype(np.float32)
    frame = encode_frame(values, kind=FrameKind.KEYFRAME, mask=mask, base=NO_BASE, codec=codec)
    peak = peak_of(lambda: decode_frame(frame, kind=FrameKind.KEYFRAME, mask=mask, base=NO_BASE))
    assert peak <= max_decode_bytes(mask)


def test_a_frame_longer_than_any_is_refused_before_it_is_copied() -> None:
    bound = max_frame_bytes(LAYOUT)
    for size in (bound + 1, 10_000_000):
        frame, decode = next(iter(FRAMES.values()))
        long = sealed(frame[:-4] + bytes(size - len(frame)))

        def refused(frame: bytes = long, decode: Decode = decode, size: int = size) -> bool:
            with pytest.raises(TruncatedFrameError, match=f"{size} bytes, for this layout at most {bound}"):
                decode(frame)
            return True

        assert peak_of(refused) < 100_000
