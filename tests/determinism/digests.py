"""Encode, decode and prune what must be the same everywhere; print digests as JSON: ``python digests.py``.

Needs numpy, msgpack, `hedgerow_codecs` (``PYTHONPATH=codecs``) and the sources of the pruning policies.
The golden vectors are compared
with their file on the spot. All other inputs come out of integers: the same bits on every machine.
`compare.py` compares what two machines, or two versions of numpy, print.

``--dispatched`` prints the vector extensions that numpy has chosen on this machine and could do without;
``--none-dispatched`` stops when there are any, so that a run without them cannot be one with them.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
from policy_masks import policy_masks

from hedgerow_codecs import (
    NO_BASE,
    DecodedUpdate,
    Ef21Feedback,
    ErrorFeedback,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    decode_mask,
    decode_seeded,
    encode_frame,
    encode_frame_with_decoded,
    encode_mask,
    encode_seeded,
    model_digest,
    seeded_parameters,
)
from hedgerow_codecs.registry import CODECS

VECTORS = Path(__file__).parents[1] / "vectors" / "codecs-v1.json"
BASE = bytes(range(16))
CONFIGS = (
    *({"codec_id": codec.codec_id} for codec in CODECS.values()),
    {"codec_id": "uniform", "bits": 1},
    {"codec_id": "uniform", "bits": 4},
    {"codec_id": "uniform", "bits": 16},
    {"codec_id": "deadzone", "step": 4.0},
    {"codec_id": "deadzone", "step": 0.25, "deadzone": 0.6, "tradeoff": 0.0},
    {"codec_id": "deadzone", "step": 2.0**-8, "deadzone": 0.5, "tradeoff": 0.0},
    {"codec_id": "topk", "fraction": 0.3, "bits": 6},
    {"codec_id": "integer", "step": 0.01, "bits": 8},
    {"codec_id": "integer", "step": 0.0003, "bits": 16},
    {"codec_id": "integer", "step": 0.01, "bits": 6, "packed": True},
    {"codec_id": "ternary", "fraction": 0.02},
    {"codec_id": "trellis", "step": 0.06},
    {"codec_id": "randk", "fraction": 0.5, "bits": 12, "seed": 9, "unbiased": True},
)
FINE_CONFIGS = (
    {"codec_id": "deadzone", "step": 2.0**-10, "deadzone": 0.6, "tradeoff": 0.0},
    {"codec_id": "deadzone", "step": 2.0**-10, "deadzone": 0.7, "tradeoff": 0.1},
    {"codec_id": "topk", "fraction": 1.0, "bits": 16},
)
PATTERNED_CONFIGS = (
    {"codec_id": "deadzone", "step": 0.25, "tradeoff": 0.05},
    {"codec_id": "deadzone", "step": 2.0**-7},
    {"codec_id": "trellis"},
    {"codec_id": "trellis", "step": 2.0**-6},
    {"codec_id": "topk", "fraction": 0.2, "bits": 4},
    {"codec_id": "ternary", "fraction": 0.1},
)
FEW_CONFIGS = ({"codec_id": "deadzone"}, {"codec_id": "uniform", "bits": 8}, {"codec_id": "topk"})


def main() -> None:
    """Print one JSON object, or what the option asks for."""
    dispatched = about()["dispatched"]
    if "--dispatched" in sys.argv:
        print(*dispatched)
        return
    if "--none-dispatched" in sys.argv and dispatched:
        sys.exit(f"digests.py: numpy still uses {' '.join(dispatched)}")
    digests: dict[str, str] = {}
    for name, data in everything():
        assert name not in digests, name
        digests[name] = blake2b(data, digest_size=16).hexdigest()
    json.dump({"about": about(), "digests": digests}, sys.stdout, indent=1)
    print()


def about() -> dict:
    """Say what ran: versions, machine, and the vector extensions that numpy chose at run time."""
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "dispatched": [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]],
    }


def everything() -> Iterator[tuple[str, bytes]]:
    """Yield what to compare: names that begin with "frame" are encoded, all others decoded or computed."""
    yield from golden()
    for model, configs in (("net", CONFIGS), ("tall", CONFIGS), ("wide", FEW_CONFIGS)):
        layout = LAYOUTS[model]
        for density in (256, 60):
            mask = drawn_mask(layout, key=f"{model}/{density}", of_256=density)
            label = f"{model}/{mask.density:.0%}"
            flat = heavy_values(layout, key=model)
            yield f"input/{label}", mask.gather(flat).tobytes() + mask.digest
            yield from updates(label, mask.gather(flat), mask=mask, configs=configs)
            yield from masks(label, mask)
    for density in (256, 60):
        mask = drawn_mask(LAYOUTS["net"], key=f"patterned/{density}", of_256=density)
        values = mask.gather(patterned(heavy_values(mask.layout, key="patterned"), layout=mask.layout))
        label = f"patterned/{mask.density:.0%}"
        yield f"input/{label}", values.tobytes() + mask.digest
        yield from updates(label, values, mask=mask, configs=PATTERNED_CONFIGS)
    mask, values = Mask.dense(LAYOUTS["even"]), even_values()
    yield "input/even", values.tobytes()
    yield from updates("even", values, mask=mask, configs=(*CONFIGS, *FINE_CONFIGS))
    yield from others(LAYOUTS["net"])
    yield from rounds(LAYOUTS["net"])
    yield from seeds()
    before = drawn_mask(LAYOUTS["net"], key="policies", of_256=200)
    yield from policy_masks(LAYOUTS["net"], lambda key: heavy_values(LAYOUTS["net"], key=key), before=before)


def golden() -> Iterator[tuple[str, bytes]]:
    """Encode and decode the golden vectors; stop if one differs from the file."""
    vectors = json.loads(VECTORS.read_text())
    layout, base = Layout.from_bytes(bytes.fromhex(vectors["layout"])), bytes.fromhex(vectors["base"])

    def mask_of(name: str) -> Mask:
        packed = np.frombuffer(bytes.fromhex(vectors[name]), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: layout.num_parameters]
        return Mask(layout=layout, live=bits.astype(np.bool_))

    mask, previous = mask_of("live"), mask_of("previous")
    for group, of in (("updates", "values"), ("patterned", "patterned_values")):
        values = np.frombuffer(bytes.fromhex(vectors[of]), "<f4").astype(np.float32)
        for number, update in enumerate(vectors[group]):
            name, codec = (
                f"{group}/{number}/{update['config']['codec_id']}",
                codec_from_config(update["config"]),
            )
            frame = encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=base, codec=codec)
            yield f"frame/golden/{name}", same(frame, update["frame"], name)
            stored = bytes.fromhex(update["frame"])
            decoded = decode_frame(stored, kind=FrameKind.UPDATE, mask=mask, base=base)
            yield f"values/golden/{name}", same(little_endian(decoded.values()), update["values"], name)
    yield "frame/golden/mask", same(encode_mask(mask), vectors["mask"], "mask")
    delta = encode_mask(mask, previous=previous)
    yield "frame/golden/mask_delta", same(delta, vectors["mask_delta"], "mask_delta")
    found = decode_mask(bytes.fromhex(vectors["mask"]), layout=layout)
    yield "mask/golden/mask", same(found.digest, mask.digest.hex(), "mask")
    found = decode_mask(bytes.fromhex(vectors["mask_delta"]), layout=layout, previous=previous)
    yield "mask/golden/mask_delta", same(found.digest, mask.digest.hex(), "mask_delta")
    yield "frame/golden/seeded", same(encode_seeded(layout, seed=2026), vectors["seeded"], "seeded")
    drawn = decode_seeded(bytes.fromhex(vectors["seeded"]), layout=layout)
    yield "values/golden/seeded", little_endian(drawn)


def updates(
    label: str, values: np.ndarray, *, mask: Mask, configs: tuple[dict, ...]
) -> Iterator[tuple[str, bytes]]:
    """Encode and decode one update by every codec."""
    for number, config in enumerate(configs):
        name, codec = f"{label}/{number}/{config['codec_id']}", codec_from_config(config)
        # One codec takes zeros and ones alone.
        suited = (values > 0).astype(np.float32) if config["codec_id"] == "bits" else values
        frame, known = encode_frame_with_decoded(
            suited, kind=FrameKind.UPDATE, mask=mask, base=BASE, codec=codec
        )
        yield f"frame/update/{name}", frame
        yield f"sent/update/{name}", content(known)
        decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=BASE)
        yield f"values/update/{name}", content(decoded)


def masks(label: str, mask: Mask) -> Iterator[tuple[str, bytes]]:
    """Encode and decode a mask, whole and against one that differs in 2 % and in whole stretches."""
    prunable = mask.layout.prunable()
    swapped = drawn_mask(mask.layout, key=f"{label}/swap", of_256=5).live & prunable
    swapped[: swapped.size // 20] = False
    previous = Mask(layout=mask.layout, live=(mask.live ^ swapped) | ~prunable)
    whole, delta = encode_mask(mask), encode_mask(mask, previous=previous)
    yield f"frame/mask/{label}", whole
    yield f"frame/mask_delta/{label}", delta
    yield f"mask/mask/{label}", packed(decode_mask(whole, layout=mask.layout))
    yield f"mask/mask_delta/{label}", packed(decode_mask(delta, layout=mask.layout, previous=previous))


def others(layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Encode and decode what is not an update: scores, keyframes, model deltas."""
    mask = drawn_mask(layout, key="others", of_256=100)
    values = mask.gather(heavy_values(layout, key="others"))
    for kind, base, config, data in (
        (FrameKind.SCORES, NO_BASE, {"codec_id": "uniform", "bits": 6}, np.abs(values)),
        (FrameKind.SCORES, NO_BASE, {"codec_id": "topk", "fraction": 0.1}, np.abs(values)),
        (FrameKind.KEYFRAME, NO_BASE, {"codec_id": "uniform", "bits": 8}, values),
        (FrameKind.KEYFRAME, NO_BASE, {"codec_id": "fp16"}, values),
        (FrameKind.MODEL_DELTA, BASE, {"codec_id": "deadzone"}, values),
    ):
        name = f"{kind.name.lower()}/{config['codec_id']}"
        frame = encode_frame(data, kind=kind, mask=mask, base=base, codec=codec_from_config(config))
        yield f"frame/{name}", frame
        yield f"values/{name}", content(decode_frame(frame, kind=kind, mask=mask, base=base))


def rounds(layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Run three rounds of error feedback for three clients, and their sums: an error would grow."""
    mask = drawn_mask(layout, key="rounds", of_256=128)
    codec = codec_from_config({"codec_id": "deadzone"})
    for kind in (ErrorFeedback, Ef21Feedback):
        total = np.zeros(mask.num_live)
        for client in range(3):
            feedback = kind.zero(layout)
            for turn in range(3):
                learned = heavy_values(layout, key=f"client {client} turn {turn}")
                owed = feedback.compensate(mask.scatter(mask.gather(learned)))
                frame, sent = encode_frame_with_decoded(
                    mask.gather(owed), kind=FrameKind.UPDATE, mask=mask, base=BASE, codec=codec
                )
                feedback = feedback.after(owed, mask.scatter(sent.values()))
                sent.add_to(total, weight=100 + client)
                yield f"frame/{kind.__name__}/{client}/{turn}", frame
        yield f"sum/{kind.__name__}", total.astype("<f8").tobytes()
        model = mask.scatter((total / 303).astype(np.float32))
        yield f"model/{kind.__name__}", model_digest(model, mask=mask)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Draw first models of every kind of tensor that has one."""
    layout = Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=shape, kind=kind, prunable=False)
            for name, shape, kind in (
                ("conv.weight", (16, 3, 5, 5), "conv"),
                ("conv.bias", (16,), "bias"),
                ("bn.weight", (16,), "norm"),
                ("bn.bias", (16,), "norm"),
                ("bn.running_var", (16,), "buffer"),
                ("emb.weight", (300, 20), "embedding"),
                ("gru.weight_ih_l0", (96, 20), "recurrent"),
                ("gru.weight_hh_l0", (96, 32), "recurrent"),
                ("gru.bias_ih_l0", (96,), "recurrent"),
                ("fc.weight", (10, 32), "linear"),
                ("fc.bias", (10,), "bias"),
            )
        )
    )
    for seed in (0, 1, 2**64 - 1):
        yield f"values/seeded/{seed}", little_endian(seeded_parameters(layout, seed=seed))
        yield f"frame/seeded/{seed}", encode_seeded(layout, seed=seed)


def _layout(*tensors: tuple[str, tuple[int, ...], str, bool]) -> Layout:
    return Layout(tensors=tuple(TensorSpec(name=n, shape=s, kind=k, prunable=p) for n, s, k, p in tensors))


# More than 16,384 symbols take many lanes: net has so many magnitudes, excesses and signs, tall also levels.
LAYOUTS = {
    "net": _layout(
        ("conv.weight", (32, 16, 3, 3), "conv", True),
        ("conv.bias", (32,), "bias", False),
        ("bn.weight", (32,), "norm", False),
        ("fc.weight", (120, 400), "linear", True),
        ("fc.bias", (120,), "bias", False),
    ),
    "tall": _layout(("emb.weight", (18000, 3), "embedding", True), ("scale", (), "other", False)),
    "even": _layout(("w", (100, 1000), "linear", True)),
    "wide": _layout(("a.weight", (700, 430), "linear", True), ("b.weight", (10, 700), "linear", True)),
}


def words(key: str, count: int) -> list[int]:
    """Return 64-bit words of splitmix64 in plain integers, not by the codecs' own generator."""
    state = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        found.append(z ^ z >> 31)
    return found


def heavy_values(layout: Layout, *, key: str) -> np.ndarray:
    """Draw float32 values, shape (num_parameters,): heavy tails, rows and columns of their own size.

    A value is 24 random bits times a power of two: exact, whatever computes it.
    """
    mantissas, exponents = [], []
    for tensor in layout.tensors:
        rows, columns = tensor.shape[:2] if len(tensor.shape) > 1 else (1, 1)
        cell = tensor.size // (rows * columns)
        quiet_rows = [word % 7 for word in words(f"{key}/{tensor.name}/rows", rows)]
        quiet_columns = [word % 5 for word in words(f"{key}/{tensor.name}/columns", columns)]
        for place, word in enumerate(words(f"{key}/{tensor.name}", tensor.size)):
            row, column = divmod(place // cell, columns)
            tail = 14 - (word >> 24 & 0x3FFF).bit_length()  # geometric
            mantissa = word & 0xFFFFFF | 1
            mantissas.append(-mantissa if word >> 63 else mantissa)
            exponents.append(min(tail, 8) - quiet_rows[row] - quiet_columns[column] - 30)
    values = np.ldexp(np.array(mantissas, np.float64), np.array(exponents, np.int32))
    return values.astype(np.float32)


def patterned(flat: np.ndarray, *, layout: Layout) -> np.ndarray:
    """Give values signs that point along one pattern of columns or against it, in seven of eight places."""
    signed = np.abs(flat)
    for tensor, start in zip(layout.tensors, layout.offsets, strict=False):
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        columns = tensor.size // rows
        of_rows, of_columns, odd = (
            np.array([word >> 61 for word in words(f"patterned/{tensor.name}/{what}", count)])
            for what, count in (("rows", rows), ("columns", columns), ("odd", tensor.size))
        )
        negative = (of_rows[:, None] ^ of_columns).reshape(-1) & 1 ^ (odd == 7)
        signed[start : start + tensor.size] *= np.where(negative == 1, np.float32(-1), np.float32(1))
    return signed


def even_values() -> np.ndarray:
    """Draw float32 values from -1 to 1, all as likely.

    Of many values with many bits some are next to where an encoder rounds up: float32 on the way shows.
    """
    drawn = [(word & 0xFFFFFF) * (-1 if word >> 63 else 1) for word in words("even", 100_000)]
    return np.ldexp(np.array(drawn, np.float64), -24).astype(np.float32)


def drawn_mask(layout: Layout, *, key: str, of_256: int) -> Mask:
    """Draw a mask in which so many of 256 prunable parameters live."""
    drawn = np.array([word >> 56 < of_256 for word in words(f"{key}/mask", layout.num_parameters)])
    return Mask(layout=layout, live=drawn | ~layout.prunable())


def content(decoded: DecodedUpdate) -> bytes:
    """Return all that a decoded update says."""
    parts = [little_endian(decoded.values()), str(decoded.num_saturated).encode()]
    if decoded.positions is not None and decoded.codes is not None and decoded.steps is not None:
        parts += [decoded.positions.astype("<i8").tobytes(), decoded.codes.astype("<i4").tobytes()]
        parts.append(decoded.steps.astype("<f8").tobytes())
    return b"|".join(parts)


def little_endian(values: np.ndarray) -> bytes:
    """Return float32 bits."""
    return values.astype("<f4").tobytes()


def packed(mask: Mask) -> bytes:
    """Return the bits of a mask."""
    return np.packbits(mask.live, bitorder="little").tobytes()


def same(found: bytes, expected: str, name: str) -> bytes:
    """Return what was found, or stop when it is not what the file of golden vectors says."""
    if found.hex() != expected:
        sys.exit(f"digests.py: golden vector {name} differs from {VECTORS.name}")
    return found


if __name__ == "__main__":
    main()
