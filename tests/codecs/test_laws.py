"""The laws that every codec keeps, whatever it is given."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from hedgerow_codecs import (
    NO_BASE,
    Codec,
    DecodedUpdate,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    UnencodableError,
    codec_from_config,
    decode_frame,
    encode_frame,
    encode_frame_with_decoded,
    max_frame_bytes,
)

CONFIGS = (
    {"codec_id": "float32"},
    {"codec_id": "fp16"},
    {"codec_id": "uniform", "bits": 1},
    {"codec_id": "uniform", "bits": 2},
    {"codec_id": "uniform", "bits": 8},
    {"codec_id": "uniform", "bits": 16},
    {"codec_id": "deadzone"},
    {"codec_id": "deadzone", "step": 0.125, "deadzone": 0.5, "tradeoff": 0},
    {"codec_id": "deadzone", "step": 2**-10, "deadzone": 1.0, "tradeoff": 1.0},
    {"codec_id": "trellis"},
    {"codec_id": "trellis", "step": 4.0, "tradeoff": 1.0},
    {"codec_id": "trellis", "step": 2**-9, "tradeoff": 0},
    {"codec_id": "topk", "fraction": 0.05, "bits": 1},
    {"codec_id": "topk", "fraction": 0.3, "bits": 4},
    {"codec_id": "topk", "fraction": 1.0, "bits": 8},
    {"codec_id": "integer"},
    {"codec_id": "integer", "step": 0.3, "bits": 2},
    {"codec_id": "integer", "step": 1e-4, "bits": 16, "packed": True},
    {"codec_id": "ternary", "fraction": 0.05},
    {"codec_id": "randk"},
    {"codec_id": "randk", "fraction": 0.5, "bits": 12, "seed": 5, "unbiased": True},
)
EVERY_CODEC = pytest.mark.parametrize(
    "codec", [pytest.param(codec_from_config(config), id=str(config)) for config in CONFIGS]
)
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCALES = st.sampled_from([1e-44, 1e-38, 1e-20, 1e-4, 1.0, 1e4, 1e20, 2.0**124])


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    shapes = draw(st.lists(st_numpy.array_shapes(max_dims=3, max_side=12), max_size=4))
    layout = Layout(
        tensors=tuple(
            TensorSpec(name=f"t{i}", shape=shape, kind="linear", prunable=True)
            for i, shape in enumerate(shapes)
        )
    )
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return Mask(layout=layout, live=np.random.default_rng(seed).random(layout.num_parameters) < density)


@st.composite
def updates(draw: st.DrawFn) -> tuple[Mask, NDArray[np.float32]]:
    mask = draw(masks())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for length in mask.lengths:
        shape = draw(st.sampled_from(["zero", "normal", "heavy", "sparse", "equal"]))
        part = {
            "zero": np.zeros(length),
            "normal": rng.normal(size=length) / 8,
            "heavy": rng.standard_cauchy(length).clip(-1e3, 1e3) / 1e3,
            "sparse": rng.normal(size=length) / 8 * (rng.random(length) < 0.1),
            "equal": np.full(length, 0.7),
        }[shape]
        parts.append(np.clip(part, -1, 1) * draw(SCALES))
    return mask, np.concatenate([*parts, np.zeros(0)]).astype(np.float32)


@EVERY_CODEC
@QUICK
@given(update=updates())
def test_a_frame_decodes_to_what_its_error_bound_says(codec: Codec, update) -> None:
    mask, values = update
    frame = encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec)
    assert frame == encode_frame(values.copy(), kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec)
    assert len(frame) <= max_frame_bytes(mask.layout)

    decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE)
    assert_same_update(
        encode_frame_with_decoded(values, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec),
        (frame, decoded),
    )
    found = decoded.values()
    assert found.dtype == np.float32
    assert found.shape == (mask.num_live,)
    error = np.abs(values.astype(np.float64) - found)
    assert np.all(error <= error_bound(codec.get_config(), mask=mask, values=values, decoded=decoded))

    total = np.zeros(mask.num_live)
    decoded.add_to(total, weight=3)
    assert np.array_equal(total, 3 * found.astype(np.float64))
    if decoded.is_integer:
        assert np.all(np.diff(decoded.positions) > 0)
        assert np.all(decoded.codes != 0)
        assert decoded.codes.dtype == np.int32


def assert_same_update(ours: tuple[bytes, DecodedUpdate], theirs: tuple[bytes, DecodedUpdate]) -> None:
    """Check that an encoder knows, bit for bit, what the receiver will decode."""
    assert ours[0] == theirs[0]
    assert ours[1].mask == theirs[1].mask
    assert ours[1].num_saturated == theirs[1].num_saturated
    for name in ("positions", "codes", "steps", "dense"):
        one, other = getattr(ours[1], name), getattr(theirs[1], name)
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def error_bound(config, *, mask, values, decoded) -> NDArray[np.float64]:
    """Return the largest error that a codec's documentation allows for each entry."""
    magnitudes = np.abs(values.astype(np.float64))
    owner = np.repeat(np.arange(len(mask.lengths)), mask.lengths)
    largest = np.array([magnitudes[owner == t].max(initial=0) for t in range(len(mask.lengths))])[owner]
    if config["codec_id"] == "float32":
        return np.zeros(values.size)
    if config["codec_id"] == "fp16":
        return np.maximum(magnitudes * 2**-11, largest * 2**-39) + 2.0**-150
    steps = decoded.steps[owner]
    if config["codec_id"] in ("deadzone", "trellis"):
        units = 2 if config["codec_id"] == "trellis" else 1
        mean_square = np.mean(magnitudes**2) if values.size else 0
        wanted = max(config["step"] / units * math.sqrt(mean_square), largest.max(initial=0) / 2**17)
        assert np.all(decoded.steps <= max(1.15 * wanted, 2.0**-140))
        # A code costs at most 14 bits more than none.
        widest = max(config.get("deadzone", 1.0), 0.5 + 7 * config["tradeoff"] * units**2) * units
        return np.full(values.size, max(1.15 * widest * wanted, 2.0**-140))
    if config["codec_id"] == "ternary":
        assert decoded.positions.size <= math.ceil(config["fraction"] * values.size)
        return np.maximum(magnitudes, steps)
    levels = max(2 ** (config["bits"] - 1) - 1, 1)
    if config["codec_id"] == "integer":
        assert np.all(np.abs(decoded.codes) <= levels)
        assert decoded.num_saturated == np.count_nonzero(np.rint(magnitudes / steps) > levels)
        return np.maximum(steps / 2, magnitudes - levels * steps) * (1 + 1e-12)
    if config["codec_id"] == "randk":
        kept = math.ceil(config["fraction"] * values.size)
        assert decoded.positions.size <= kept
        scale = values.size / kept if config["unbiased"] and kept else 1.0
        assert np.all(decoded.steps <= max(1.26 * scale * largest.max(initial=0) / levels, 2.0**-147))
        bound = magnitudes.copy()
        bound[decoded.positions] = ((scale - 1) * magnitudes + steps / 2)[decoded.positions] * (1 + 1e-12)
        return bound
    assert np.all(steps[largest > 0] <= np.maximum(1.26 * largest[largest > 0] / levels, 2.0**-147))
    bound = np.maximum(magnitudes, steps) if config["bits"] == 1 else steps / 2 * (1 + 1e-12)
    if config["codec_id"] == "topk":
        kept = min(math.ceil(config["fraction"] * values.size), np.count_nonzero(values))
        border = np.sort(magnitudes)[values.size - kept] if kept else math.inf
        bound = np.where(magnitudes > border, bound, np.maximum(bound, border))
        assert decoded.positions.size <= kept
    return bound


@EVERY_CODEC
def test_a_config_is_json_and_makes_the_same_codec(codec: Codec) -> None:
    config = json.loads(json.dumps(codec.get_config()))
    assert codec_from_config(config) == codec
    assert codec_from_config(config).get_config() == codec.get_config()


@EVERY_CODEC
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_name(codec: Codec, mask: Mask, bad: float) -> None:
    values = np.zeros(mask.num_live, np.float32)
    values[25] = bad
    with pytest.raises(UnencodableError, match=r"'conv\.bias'") as caught:
        codec.encode(values, mask=mask)
    assert caught.value.tensor == "conv.bias"


@EVERY_CODEC
def test_values_of_another_shape_or_dtype_are_refused(codec: Codec, mask: Mask) -> None:
    for wrong in (np.zeros(77, np.float32), np.zeros((78, 1), np.float32), np.zeros(78)):
        with pytest.raises(UnencodableError, match=r"float32 of shape \(78,\)"):
            codec.encode(wrong, mask=mask)


@EVERY_CODEC
def test_an_update_of_zeros_is_tiny_and_exact(codec: Codec, mask: Mask) -> None:
    payload = codec.encode(np.zeros(mask.num_live, np.float32), mask=mask)
    decoded = codec.decode(payload, mask=mask)
    assert decoded.num_nonzero == 0
    assert not decoded.values().any()
    if decoded.is_integer:
        assert len(payload) <= (5 + 2 * mask.num_live if codec.get_config().get("packed") else 32)


@EVERY_CODEC
def test_sums_do_not_depend_on_the_order_of_arrival(codec: Codec, mask: Mask) -> None:
    if codec.codec_id in ("float32", "fp16"):
        pytest.skip("floats have no common grid")
    rng = np.random.default_rng(3)
    weighted = []
    for weight in (600, 7, 12_345, 1):
        values = (rng.standard_t(2, mask.num_live) * 10.0 ** rng.integers(-4, 0)).astype(np.float32)
        weighted.append((codec.decode(codec.encode(values, mask=mask), mask=mask), weight))
    totals = []
    for order in itertools.permutations(weighted):
        total = np.zeros(mask.num_live)
        for decoded, weight in order:
            decoded.add_to(total, weight=weight)
        totals.append(total.tobytes())
    assert len(set(totals)) == 1


@pytest.mark.parametrize(
    "codec_id", ["uniform", "deadzone", "topk", "integer", "ternary", "randk", "trellis"]
)
def test_what_the_grid_cannot_hold_is_refused_by_name(codec_id: str, mask: Mask) -> None:
    values = np.zeros(mask.num_live, np.float32)
    values[-1] = -(2.0**126)
    with pytest.raises(UnencodableError, match=r"'fc\.bias'"):
        codec_from_config({"codec_id": codec_id}).encode(values, mask=mask)
