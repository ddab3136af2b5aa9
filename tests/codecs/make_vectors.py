"""Rewrites the golden vectors of the codecs: ``python tests/codecs/make_vectors.py``.

Run it only when the bytes are meant to change; once a version is released, that is a new version.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hedgerow_codecs import (
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    encode_frame,
    encode_mask,
    encode_seeded,
)

PATH = Path(__file__).parents[1] / "vectors" / "codecs-v1.json"
CONFIGS = (
    {"codec_id": "float32"},
    {"codec_id": "fp16"},
    {"codec_id": "uniform", "bits": 1},
    {"codec_id": "uniform", "bits": 5},
    {"codec_id": "deadzone", "step": 0.25, "deadzone": 0.6, "tradeoff": 0.0},
    {"codec_id": "deadzone", "step": 2.0},
    {"codec_id": "trellis", "step": 0.5},
    {"codec_id": "topk", "fraction": 0.02, "bits": 1},
    {"codec_id": "topk", "fraction": 0.2, "bits": 6},
    {"codec_id": "integer", "step": 0.001, "bits": 5},
    {"codec_id": "integer", "step": 0.001, "bits": 5, "packed": True},
    {"codec_id": "ternary", "fraction": 0.02},
    {"codec_id": "randk", "fraction": 0.05, "bits": 6, "seed": 7},
    {"codec_id": "randk", "fraction": 0.5, "bits": 4, "unbiased": True},
)
PATTERNED = ({"codec_id": "deadzone", "step": 0.125}, {"codec_id": "trellis", "step": 0.25})


def main() -> None:
    """Write all vectors."""
    layout = Layout(
        tensors=(
            TensorSpec(name="conv.weight", shape=(8, 3, 3, 3), kind="conv", prunable=True),
            TensorSpec(name="conv.bias", shape=(8,), kind="bias", prunable=False),
            TensorSpec(name="fc.weight", shape=(10, 64), kind="linear", prunable=True),
            TensorSpec(name="fc.bias", shape=(10,), kind="bias", prunable=False),
        )
    )
    places = np.arange(layout.num_parameters)
    live = ~layout.prunable() | (places * 7919 % 101 < 70)
    mask = Mask(layout=layout, live=live)
    previous = Mask(layout=layout, live=live ^ (layout.prunable() & (places % 97 == 5)))
    # Cubes of a sawtooth: heavy tails without a random generator whose stream might change.
    values = (((np.arange(mask.num_live) * 7907 % 211 - 105) / 105) ** 5 / 64).astype(np.float32)
    base = bytes(range(16))
    # Signs that are nearly those of an outer product: told against a pattern of fc.weight's columns.
    columns, rows = (places - layout.offsets[2]) % 64, (places - layout.offsets[2]) // 64
    signs = np.where(columns * 31 % 17 < 8, -1, 1) * np.where(rows % 3 == 0, -1, 1)
    signs[places * 7919 % 103 < 4] *= -1
    patterned = (np.abs(values) * mask.gather(signs.astype(np.float32))).astype(np.float32)

    def updates(values: np.ndarray, configs: tuple[dict, ...]) -> list[dict[str, object]]:
        frames = []
        for config in configs:
            frame = encode_frame(
                values, kind=FrameKind.UPDATE, mask=mask, base=base, codec=codec_from_config(config)
            )
            decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=base)
            frames.append(
                {"config": config, "frame": frame.hex(), "values": decoded.values().tobytes().hex()}
            )
        return frames

    vectors = {
        "layout": layout.to_bytes().hex(),
        "live": np.packbits(mask.live, bitorder="little").tobytes().hex(),
        "previous": np.packbits(previous.live, bitorder="little").tobytes().hex(),
        "base": base.hex(),
        "values": values.tobytes().hex(),
        "updates": updates(values, CONFIGS),
        "patterned_values": patterned.tobytes().hex(),
        "patterned": updates(patterned, PATTERNED),
        "mask": encode_mask(mask).hex(),
        "mask_delta": encode_mask(mask, previous=previous).hex(),
        "seeded": encode_seeded(layout, seed=2026).hex(),
    }
    PATH.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
