from __future__ import annotations

import numpy as np
import pytest

from hedgerow_codecs import (
    Layout,
    LayoutError,
    PayloadError,
    TensorSpec,
    UnencodableError,
    decode_seeded,
    encode_seeded,
    model_digest,
    seeded_parameters,
)
from hedgerow_codecs.frame import FrameKind, seal
from hedgerow_codecs.mask import Mask


def layout_of(*tensors: tuple[str, tuple[int, ...], str]) -> Layout:
    return Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=shape, kind=kind, prunable=False) for name, shape, kind in tensors
        )
    )


LAYOUT = layout_of(
    ("conv.weight", (64, 16, 3, 3), "conv"),
    ("conv.bias", (64,), "bias"),
    ("norm.weight", (64,), "norm"),
    ("norm.bias", (64,), "norm"),
    ("norm.running_mean", (64,), "buffer"),
    ("norm.running_var", (64,), "buffer"),
    ("norm.num_batches_tracked", (), "buffer"),
    ("embed.weight", (1000, 20), "embedding"),
    ("gru.weight_ih_l0", (60, 7), "recurrent"),
    ("gru.weight_hh_l0", (60, 20), "recurrent"),
    ("gru.bias_ih_l0", (60,), "recurrent"),
    ("gru.bias_hh_l0", (60,), "recurrent"),
    ("weight", (10, 400), "linear"),
    ("bias", (10,), "bias"),
)


def literal_words(key: int, count: int) -> list[int]:
    """Splitmix64 as Steele, Lea and Flood print it."""
    words, state, wrap = [], key, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & wrap
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        words.append(z ^ (z >> 31))
    return words


def test_the_draws_follow_the_literal_generator() -> None:
    from hashlib import blake2b
    from math import isqrt

    drawn = LAYOUT.split(seeded_parameters(LAYOUT, seed=7))
    key = int.from_bytes(
        blake2b((7).to_bytes(8, "little") + b"conv.weight", digest_size=8).digest(), "little"
    )
    bound = isqrt(2**48 // 144)
    expected = [((2 * bound + 1) * (word >> 32) >> 32) - bound for word in literal_words(key, 50)]
    assert (drawn["conv.weight"].reshape(-1)[:50].astype(np.float64) * 2**24).tolist() == expected

    key = int.from_bytes(
        blake2b((7).to_bytes(8, "little") + b"embed.weight", digest_size=8).digest(), "little"
    )
    words = literal_words(key, 30)
    sums = [
        sum(w >> s & 0xFFFF for w in words[3 * i : 3 * i + 3] for s in (0, 16, 32, 48)) for i in range(10)
    ]
    assert (drawn["embed.weight"].reshape(-1)[:10].astype(np.float64) * 2**17).tolist() == [
        2 * s - 12 * 65535 for s in sums
    ]


def test_the_distributions_are_those_of_pytorch() -> None:
    drawn = LAYOUT.split(seeded_parameters(LAYOUT, seed=0))
    for name, fan in (
        ("conv.weight", 144),
        ("conv.bias", 144),
        ("gru.weight_ih_l0", 20),
        ("gru.bias_hh_l0", 20),
        ("weight", 400),
        ("bias", 400),
    ):
        bound = 1 / np.sqrt(fan)
        assert np.abs(drawn[name]).max() <= bound
        assert np.abs(drawn[name]).max() > 0.6 * bound
        assert np.abs(drawn[name].std() * np.sqrt(3) / bound - 1) < 2.5 / np.sqrt(drawn[name].size)
        assert np.abs(drawn[name].mean()) < 4 * bound / np.sqrt(3 * drawn[name].size)
    assert abs(drawn["embed.weight"].std() - 1) < 0.02
    assert abs(drawn["embed.weight"].mean()) < 0.03
    assert drawn["norm.weight"].tolist() == [1] * 64
    assert drawn["norm.running_var"].tolist() == [1] * 64
    for name in ("norm.bias", "norm.running_mean", "norm.num_batches_tracked"):
        assert not drawn[name].any()


def test_tensors_do_not_share_their_draws_and_seeds_differ() -> None:
    layout = layout_of(("a.weight", (50, 50), "linear"), ("b.weight", (50, 50), "linear"))
    first, second = layout.split(seeded_parameters(layout, seed=1)).values()
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    assert not np.array_equal(first, layout.split(seeded_parameters(layout, seed=2))["a.weight"])


def test_the_bits_never_change() -> None:
    digest = model_digest(seeded_parameters(LAYOUT, seed=2**64 - 1), mask=Mask.dense(LAYOUT))
    assert digest.hex() == "771f09678a9f5932c8178888fa6a3bbc"


@pytest.mark.parametrize(
    "tensor",
    [
        ("gain", (3,), "other"),
        ("linear.weight", (3,), "linear"),
        ("lonely.bias", (3,), "bias"),
        ("norm.gamma", (3,), "norm"),
        ("table", (3,), "buffer"),
        ("gru.weight_ih_l0", (60, 7), "recurrent"),
    ],
)
def test_what_pytorch_would_fill_in_an_unknown_way_is_refused(tensor: tuple) -> None:
    with pytest.raises(LayoutError, match=f"'{tensor[0]}'") as caught:
        seeded_parameters(layout_of(tensor), seed=0)
    assert caught.value.tensor == tensor[0]


def test_a_seed_is_a_keyframe_of_81_bytes() -> None:
    frame = encode_seeded(LAYOUT, seed=99)
    assert len(frame) == 81
    assert np.array_equal(decode_seeded(frame, layout=LAYOUT), seeded_parameters(LAYOUT, seed=99))
    for seed in (-1, 2**64):
        with pytest.raises(UnencodableError):
            encode_seeded(LAYOUT, seed=seed)


def test_a_machine_that_draws_otherwise_is_found_out() -> None:
    mask = Mask.dense(LAYOUT)
    frame = seal(bytes(24), kind=FrameKind.SEEDED, codec=0, mask=mask, base=bytes(16))
    with pytest.raises(PayloadError, match="another model"):
        decode_seeded(frame, layout=LAYOUT)
