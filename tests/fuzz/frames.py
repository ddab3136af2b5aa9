"""Hostile bytes for the codecs: how an input becomes a frame, and what must hold whatever it is.

Needs neither atheris nor pytest: the fuzz target, the tests and the corpus all run the same checks.

The first byte of an input chooses a model and its mask, the second what the rest is: a frame as it is, one
that gets a checksum that fits, a payload that gets a header as well, edits of a sound frame, or a layout.
"""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hedgerow_codecs import (
    NO_BASE,
    CodecError,
    DecodedUpdate,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    decode_mask,
    decode_seeded,
    encode_frame,
    encode_mask,
    encode_seeded,
    max_decode_bytes,
    read_header,
    seeded_parameters,
)
from hedgerow_codecs.frame import CODED_KINDS, model_digest, seal
from hedgerow_codecs.grid import MAX_CODE
from hedgerow_codecs.mask_bits import decode_bits
from hedgerow_codecs.registry import CODECS
from hedgerow_codecs.stages.compiled import compiled_loops, without_compiled_loops
from hedgerow_codecs.stages.context import ContextCoder
from hedgerow_codecs.stages.signal import Signal

VECTORS = Path(__file__).parents[1] / "vectors" / "codecs-v1.json"
BASE = bytes(range(16))
MAX_CPU_S = 0.5
"""Of one decoding, traced and instrumented; test_hostile_frames.py holds the plain one to 0.1."""
AS_IT_IS, WITH_CHECKSUM, WITH_HEADER, EDITED, LAYOUT = range(5)
CONFIGS = (
    *({"codec_id": codec.codec_id} for codec in CODECS.values()),
    {"codec_id": "deadzone", "step": 0.25},
    {"codec_id": "topk", "fraction": 0.2},
    {"codec_id": "integer", "step": 1e-4, "bits": 14},
    {"codec_id": "integer", "step": 1e-2, "bits": 5, "packed": True},
    {"codec_id": "ternary", "fraction": 0.1},
    {"codec_id": "randk", "fraction": 0.3},
    {"codec_id": "trellis"},
)


class Finding(Exception):
    """Something that must not happen, happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A model, the mask that both ends hold, the mask before it, and sound frames for them."""

    mask: Mask
    previous: Mask
    frames: tuple[bytes, ...] = field(repr=False)

    def base_of(self, kind: FrameKind) -> bytes:
        """Return the base that a reader of such a frame asks for."""
        return BASE if kind in (FrameKind.UPDATE, FrameKind.MODEL_DELTA) else NO_BASE


def attempt(data: bytes) -> str:
    """Decode what an input stands for; say what became of it: "refused", "update", "mask", "seed", "layout".

    Where compiled loops are loaded, they must find the same, or refuse it as well.

    Raises
    ------
    Finding
        Too much time or memory, or something decoded that does not stand up to a second look.
    Exception
        Whatever but `CodecError` the decoder raises.
    """
    if len(data) < 2:
        return "refused"
    situation, way, rest = SITUATIONS[data[0] % len(SITUATIONS)], data[1] % 5, data[2:]
    try:
        if way == LAYOUT:
            return _check_layout(rest, Layout.from_bytes(rest))
        makers: dict[int, Callable[[Situation, bytes], bytes]] = {
            AS_IT_IS: lambda _, frame: frame,
            WITH_CHECKSUM: lambda _, frame: sealed(frame),
            WITH_HEADER: _with_header,
            EDITED: _edited,
        }
        frame = makers[way](situation, rest)
        if compiled_loops() is not None:
            _demand(*_both_ways(frame, situation))
        with without_compiled_loops():
            return check_frame(frame, situation)
    except CodecError:
        return "refused"


def check_frame(frame: bytes, situation: Situation) -> str:
    """Decode a frame within its bounds and check what comes out; `CodecError` if it is refused."""
    own_trace = not tracemalloc.is_tracing()
    if own_trace:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        decoded = _decode(frame, situation)
    finally:
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
        if own_trace:
            tracemalloc.stop()
        bound = max_decode_bytes(Mask.dense(situation.mask.layout))
        if peak > bound:
            raise Finding(f"{peak} bytes of memory, at most {bound} were declared")
        if seconds > MAX_CPU_S:
            raise Finding(f"{seconds:.2f} s of processor time")
    if isinstance(decoded, DecodedUpdate):
        _check_update(decoded, _decode(frame, situation), situation)
        return "update"
    if isinstance(decoded, Mask):
        _check_mask(decoded, situation)
        return "mask"
    seed = int.from_bytes(frame[53:61], "little")
    _demand(encode_seeded(situation.mask.layout, seed=seed) == frame, "a second frame of the same seed")
    return "seed"


def _both_ways(frame: bytes, situation: Situation) -> tuple[bool, str]:
    """Return whether compiled loops and numpy decode a frame alike, and what they should have."""

    def found() -> tuple[bytes, ...] | None:
        try:
            decoded = _decode(frame, situation)
        except CodecError:
            return None
        if not isinstance(decoded, DecodedUpdate):
            return ()
        return decoded.values().tobytes(), bytes(str(decoded.num_saturated), "ascii")

    compiled = found()
    with without_compiled_loops():
        return compiled == found(), "what numpy finds, from compiled loops"


def sealed(frame: bytes) -> bytes:
    """Give a frame a checksum that fits."""
    return frame[:-4] + zlib.crc32(frame[:-4]).to_bytes(4, "little")


def _decode(frame: bytes, situation: Situation) -> object:
    kind = read_header(frame).kind
    if kind in CODED_KINDS:
        return decode_frame(frame, kind=kind, mask=situation.mask, base=situation.base_of(kind))
    layout = situation.mask.layout
    if kind == FrameKind.SEEDED:
        return decode_seeded(frame, layout=layout)
    return decode_mask(frame, layout=layout, previous=situation.previous)


def _with_header(situation: Situation, data: bytes) -> bytes:
    """Make a frame of a kind, a codec and a payload; masks and seeds name what they decode to."""
    kind, codec, payload = FrameKind(1 + (data[0] if data else 0) % 7), data[1:2], data[2:]
    mask, base, layout = situation.mask, situation.base_of(kind), situation.mask.layout
    if kind == FrameKind.MASK:
        bits, _ = decode_bits(payload, mask=Mask.dense(layout))
        mask = Mask(layout=layout, live=bits | ~layout.prunable())
    elif kind == FrameKind.MASK_DELTA:
        before, fixed = situation.previous, ~layout.prunable()
        base, pruned = before.digest, Mask(layout=layout, live=~before.live | fixed)
        dropped, rest = decode_bits(payload, mask=before)
        grown, _ = decode_bits(rest, mask=pruned)
        live = (before.live ^ before.scatter(dropped) ^ pruned.scatter(grown)) | fixed
        mask = Mask(layout=layout, live=live)
    elif kind == FrameKind.SEEDED:
        mask = Mask.dense(layout)
        flat = seeded_parameters(layout, seed=int.from_bytes(payload[:8], "little"))
        payload = payload[:8] + model_digest(flat, mask=mask) + payload[8:]
    number = int.from_bytes(codec, "little") % (max(CODECS) + 2) if kind in CODED_KINDS else 0
    return seal(payload, kind=kind, codec=number, mask=mask, base=base)


def _edited(situation: Situation, data: bytes) -> bytes:
    """Edit one of the sound frames, four bytes an edit: what to do, where (two bytes), and a value."""
    frame = bytearray(situation.frames[(data[0] if data else 0) % len(situation.frames)][:-4])
    for what, low, high, value in zip(*(data[1 + i :: 4] for i in range(4)), strict=False):
        place = (low + 256 * high) % (len(frame) + 1)
        if what % 4 == 0:
            frame[place : place + 1] = [value]
        elif what % 4 == 1:
            frame[place:place] = [value]
        elif what % 4 == 2:
            del frame[place : place + 1 + value]
        else:
            frame[place:place] = frame[place : place + 1 + value]
    return sealed(bytes(frame) + bytes(4))


def _check_update(decoded: DecodedUpdate, again: DecodedUpdate, situation: Situation) -> None:
    mask = situation.mask
    values = decoded.values()
    _demand(values.dtype == np.float32 and values.shape == (mask.num_live,), "one float32 for each entry")
    _demand(bool(np.all(np.isfinite(values))), "finite values")
    _demand(values.tobytes() == again.values().tobytes(), "the same values each time")
    _demand(0 <= decoded.num_saturated <= mask.num_live, "a count of saturated entries within the model")
    total = np.zeros(mask.num_live)
    decoded.add_to(total, weight=3)
    _demand(np.array_equal(total, 3 * values.astype(np.float64)), "an exact sum")
    frame = encode_frame(
        values,
        kind=FrameKind.KEYFRAME,
        mask=mask,
        base=NO_BASE,
        codec=codec_from_config({"codec_id": "float32"}),
    )
    copy = decode_frame(frame, kind=FrameKind.KEYFRAME, mask=mask, base=NO_BASE)
    _demand(copy.values().tobytes() == values.tobytes(), "values that survive float32")
    if decoded.positions is not None and decoded.codes is not None and decoded.steps is not None:
        positions, codes, steps = decoded.positions, decoded.codes, decoded.steps
        _demand((positions.dtype, codes.dtype) == (np.int64, np.int32), "int64 positions and int32 codes")
        _demand(bool(np.all(np.diff(positions) > 0)), "ascending positions")
        _demand(not positions.size or 0 <= positions[0] <= positions[-1] < mask.num_live, "positions within")
        _demand(bool(np.all(codes != 0)) and int(np.abs(codes).max(initial=0)) <= MAX_CODE, "codes in range")
        of_entries = np.repeat(steps, mask.lengths)[positions]
        _demand(np.array_equal(values[positions].astype(np.float64), codes * of_entries), "exact products")
        coder = ContextCoder()
        coded = coder.encode(Signal(mask=mask, positions=positions, codes=codes)).data
        back = coder.decode(Signal(mask=mask, data=coded))
        same = np.array_equal(back.positions, positions) and np.array_equal(back.codes, codes)
        _demand(same and not back.data, "codes that survive being coded again")


def _check_mask(mask: Mask, situation: Situation) -> None:
    layout = situation.mask.layout
    _demand(mask.layout == layout and bool(np.all(mask.live | layout.prunable())), "a mask of the layout")
    _demand(decode_mask(encode_mask(mask), layout=layout) == mask, "a mask that survives being coded again")
    delta = encode_mask(mask, previous=situation.previous)
    found = decode_mask(delta, layout=layout, previous=situation.previous)
    _demand(found == mask, "a mask that survives being coded as a delta")


def _check_layout(data: bytes, layout: Layout) -> str:
    _demand(layout.to_bytes() == data, "one spelling of a layout")
    _demand(layout.offsets[-1] == layout.num_parameters, "offsets that end with the model")
    return "layout"


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(f"expected {what}")


def _situation(layout: Layout, live: np.ndarray, before: np.ndarray, *more: bytes) -> Situation:
    fixed = ~layout.prunable()
    mask, previous = (Mask(layout=layout, live=bits | fixed) for bits in (live, before))
    # Fifth powers of a sawtooth: heavy tails without a random generator whose stream might change.
    values = (((np.arange(mask.num_live) * 7907 % 211 - 105) / 105) ** 5 / 64).astype(np.float32)
    frames = [
        encode_frame(
            # One codec takes zeros and ones alone.
            (values > 0).astype(np.float32) if config["codec_id"] == "bits" else values,
            kind=FrameKind.UPDATE,
            mask=mask,
            base=BASE,
            codec=codec_from_config(config),
        )
        for config in CONFIGS
    ]
    frames += [encode_mask(mask), encode_mask(mask, previous=previous)]
    return Situation(mask=mask, previous=previous, frames=(*frames, *more))


def _situations() -> tuple[Situation, ...]:
    def layout(*tensors: tuple[str, tuple[int, ...], str, bool]) -> Layout:
        return Layout(
            tensors=tuple(
                TensorSpec(name=name, shape=shape, kind=kind, prunable=prunable)
                for name, shape, kind, prunable in tensors
            )
        )

    golden = json.loads(VECTORS.read_text())
    golden_layout = Layout.from_bytes(bytes.fromhex(golden["layout"]))

    def bits(name: str) -> np.ndarray:
        packed = np.frombuffer(bytes.fromhex(golden[name]), np.uint8)
        return np.unpackbits(packed, bitorder="little", count=golden_layout.num_parameters).astype(np.bool_)

    golden_frames = [update["frame"] for update in golden["updates"] + golden["patterned"]]
    golden_frames += [golden["mask"], golden["mask_delta"], golden["seeded"]]
    mixed = layout(
        ("conv.weight", (4, 1, 3, 3), "conv", True),
        ("conv.bias", (4,), "bias", False),
        ("norm.weight", (4,), "norm", False),
        ("scale", (), "other", False),
        ("fc.weight", (5, 10), "linear", True),
        ("fc.bias", (5,), "bias", False),
    )
    rows = layout(("a.weight", (40, 3), "linear", True), ("b.weight", (2, 50), "linear", True))
    one, nothing = layout(("w", (1,), "linear", True)), Layout(tensors=())
    third = np.arange(mixed.num_parameters) % 3 > 0
    return (
        _situation(golden_layout, bits("live"), bits("previous"), *map(bytes.fromhex, golden_frames)),
        _situation(mixed, third, np.roll(third, 1)),
        _situation(rows, np.ones(220, np.bool_), np.arange(220) % 5 > 0),
        _situation(one, np.ones(1, np.bool_), np.zeros(1, np.bool_)),
        _situation(one, np.zeros(1, np.bool_), np.ones(1, np.bool_)),
        _situation(nothing, np.ones(0, np.bool_), np.ones(0, np.bool_)),
    )


SITUATIONS = _situations()
