"""What single codecs do to small exact numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerow_codecs import (
    NO_BASE,
    CodecError,
    ConfigError,
    DecodedUpdate,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    encode_frame,
)
from hedgerow_codecs.grid import NUM_STEPS, grid_index, grid_steps


def dense(*sizes: int) -> Mask:
    tensors = tuple(
        TensorSpec(name=f"t{i}", shape=(size,), kind="linear", prunable=True) for i, size in enumerate(sizes)
    )
    return Mask.dense(Layout(tensors=tensors))


def sent(config: dict, values: list[float], mask: Mask) -> DecodedUpdate:
    codec = codec_from_config(config)
    return codec.decode(codec.encode(np.array(values, np.float32), mask=mask), mask=mask)


def test_uniform_gives_each_tensor_its_own_step() -> None:
    decoded = sent({"codec_id": "uniform", "bits": 3}, [3.0, 1.4, -3.0, 0.03, 0.016], dense(3, 2))
    assert decoded.steps.tolist() == [1.0, 6 * 2.0**-9]
    assert decoded.codes.tolist() == [3, 1, -3, 3, 1]


def test_one_bit_sends_signs_of_the_mean_magnitude() -> None:
    decoded = sent({"codec_id": "uniform", "bits": 1}, [3.0, -1.0, 0.0, -4.0], dense(4))
    assert decoded.values().tolist() == [2.0, -2.0, 0.0, -2.0]


def test_topk_sends_the_largest_and_of_equals_the_first() -> None:
    decoded = sent({"codec_id": "topk", "fraction": 0.5, "bits": 8}, [1, -2, 1, 1, 0, 0], dense(6))
    assert decoded.positions.tolist() == [0, 1, 2]
    decoded = sent({"codec_id": "topk", "fraction": 1.0, "bits": 8}, [1, -2, 1, 1, 0, 0], dense(6))
    assert decoded.positions.tolist() == [0, 1, 2, 3]


def test_topk_with_one_bit_is_sparse_ternary() -> None:
    decoded = sent({"codec_id": "topk", "fraction": 0.5, "bits": 1}, [1, -3, 0.5, 0], dense(4))
    assert decoded.values().tolist() == [2, -2, 0, 0]


def test_ternary_has_one_magnitude_for_all_tensors() -> None:
    decoded = sent({"codec_id": "ternary", "fraction": 0.5}, [1, -3, 0.5, 0], dense(2, 2))
    assert decoded.values().tolist() == [2, -2, 0, 0]
    assert sent({"codec_id": "ternary", "fraction": 1.0}, [0, -3, 0.5, 0], dense(2, 2)).num_nonzero == 2


@pytest.mark.parametrize(
    "config", [{"codec_id": "topk", "fraction": 0.5, "bits": 8}, {"codec_id": "float32"}]
)
def test_the_largest_magnitude_and_the_norm_are_known_without_the_dense_vector(config: dict) -> None:
    decoded = sent(config, [1, -3, 0.5, 0], dense(2, 2))
    assert decoded.largest == np.abs(decoded.values()).max() == pytest.approx(3, rel=0.01)
    assert decoded.norm == pytest.approx(np.linalg.norm(decoded.values().astype(np.float64)), rel=1e-12)
    assert sent(config, [0.0, 0.0], dense(2)).largest == 0
    assert sent(config, [0.0, 0.0], dense(2)).norm == 0


@pytest.mark.parametrize(
    "config", [{"codec_id": "deadzone", "step": 0.5, "deadzone": 0.5}, {"codec_id": "float32"}]
)
def test_the_norm_of_many_blocks_and_tensors(config: dict) -> None:
    values = np.random.default_rng(3).normal(size=150_000).astype(np.float32) * np.float32(1e18)
    decoded = sent(config, values.tolist(), dense(70_000, 80_000))
    assert decoded.norm == pytest.approx(np.linalg.norm(decoded.values().astype(np.float64)), rel=1e-12)


@pytest.mark.parametrize("packed", [False, True])
def test_integers_of_all_clients_are_on_one_grid(packed: bool) -> None:
    config = {"codec_id": "integer", "step": 0.25, "bits": 3, "packed": packed}
    decoded = sent(config, [0.6, -0.1, -9.0, 0.75, 0.9], dense(3, 2))
    assert decoded.values().tolist() == [0.5, 0.0, -0.75, 0.75, 0.75]
    assert decoded.steps.tolist() == [0.25, 0.25]
    assert decoded.num_saturated == 2
    assert sent(config, [0, 0, 0, 0, 0.1], dense(3, 2)).steps.tolist() == [0.25, 0.25]


def test_packed_integers_are_equally_long_whatever_they_say() -> None:
    codec = codec_from_config({"codec_id": "integer", "step": 0.25, "bits": 5, "packed": True})
    values = np.linspace(-3, 3, 100).astype(np.float32)
    sizes = {len(codec.encode(scale * values, mask=dense(100))) for scale in (0, 1)}
    assert sizes == {1 + 1 + 63 + 2}


def test_randk_sends_the_same_places_for_the_same_seed() -> None:
    config = {"codec_id": "randk", "fraction": 0.25, "bits": 8, "seed": 9}
    first = sent(config, list(range(1, 41)), dense(40))
    second = sent(config, list(range(41, 1, -1)), dense(40))
    assert first.positions.size == 10
    assert first.positions.tolist() == second.positions.tolist()
    assert sent({**config, "seed": 10}, list(range(1, 41)), dense(40)).positions.tolist() != (
        first.positions.tolist()
    )
    fresh = {**config, "seed": 0}
    one, other = sent(fresh, [1.0] * 40, dense(40)), sent(fresh, [1.5] * 40, dense(40))
    assert one.positions.tolist() != other.positions.tolist()


def test_randk_pays_nothing_for_places() -> None:
    values = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    codec = codec_from_config({"codec_id": "randk", "fraction": 0.1, "bits": 4, "seed": 1})
    assert len(codec.encode(values, mask=dense(8000))) == 2 + 1 + 8 + 2 + 400


def test_unbiased_randk_is_right_on_average() -> None:
    values = [1.0, -2.0, 3.0, 0.5]
    mean = np.zeros(4)
    for seed in range(1, 401):
        config = {"codec_id": "randk", "fraction": 0.5, "bits": 16, "seed": seed, "unbiased": True}
        mean += sent(config, values, dense(4)).values() / 400
    assert np.abs(mean - values).max() < 0.35


def test_deadzone_has_one_step_for_all_tensors() -> None:
    values = [8.0, -8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # of root mean square 4
    decoded = sent({"codec_id": "deadzone", "step": 1.0, "deadzone": 0.6, "tradeoff": 0}, values, dense(3, 5))
    assert decoded.values().tolist() == values
    assert len(set(decoded.steps.tolist())) == 1


def test_deadzone_is_as_wide_as_told() -> None:
    values = [0.59, 0.61, 1.59, 1.61, -0.61, 3.0]
    step = 1 / float(np.sqrt(np.mean(np.square(np.array(values, np.float32), dtype=np.float64))))
    decoded = sent({"codec_id": "deadzone", "step": step, "deadzone": 0.6, "tradeoff": 0}, values, dense(6))
    assert decoded.positions.tolist() == [1, 2, 3, 4, 5]


def test_fp16_keeps_the_bits_of_tiny_deltas() -> None:
    values = np.array([1.0009765625e-6, -3e-7], np.float32)  # subnormal as plain half precision
    found = sent({"codec_id": "fp16"}, values.tolist(), dense(2)).values()
    assert np.all(np.abs(found - values) <= np.abs(values) * 2.0**-11)


def test_grid_steps_are_ordered_and_found_again() -> None:
    steps = grid_steps(np.arange(NUM_STEPS))
    assert np.all(np.diff(steps) > 0)
    assert steps[0] == 2.0**-147
    for index in (0, 1, 500, 501, 502, 503, NUM_STEPS - 1):
        assert grid_index(float(steps[index])) == index
        assert grid_index(float(steps[index]), at_least=True) == index
        above = float(np.nextafter(steps[index], np.inf))
        assert grid_index(above) == index
        assert grid_index(above, at_least=True) == min(index + 1, NUM_STEPS - 1)
    assert grid_index(0.0) == 0
    assert grid_index(1e300) == NUM_STEPS - 1


@pytest.mark.parametrize(
    ("config", "key", "nearest"),
    [
        ({}, "codec_id", None),
        ({"codec_id": 4}, "codec_id", None),
        ({"codec_id": "dead_zone"}, "dead_zone", "deadzone"),
        ({"codec_id": "gzip"}, "gzip", None),
        ({"codec_id": "uniform", "bit": 4}, "bit", "bits"),
        ({"codec_id": "uniform", "bits": 0}, "bits", None),
        ({"codec_id": "uniform", "bits": 4.0}, "bits", None),
        ({"codec_id": "uniform", "bits": True}, "bits", None),
        ({"codec_id": "deadzone", "step": "big"}, "step", None),
        ({"codec_id": "deadzone", "step": float("nan")}, "step", None),
        ({"codec_id": "deadzone", "deadzone": 0.4}, "deadzone", None),
        ({"codec_id": "deadzone", "tradeoff": -0.1}, "tradeoff", None),
        ({"codec_id": "topk", "fraction": 0}, "fraction", None),
        ({"codec_id": "float32", "bits": 4}, "bits", None),
        ({"codec_id": "integer", "bits": 1}, "bits", None),
        ({"codec_id": "integer", "packed": 1}, "packed", None),
        ({"codec_id": "integer", "step": 0}, "step", None),
        ({"codec_id": "ternary", "fraction": 0}, "fraction", None),
        ({"codec_id": "randk", "seed": -1}, "seed", None),
        ({"codec_id": "randk", "unbiased": "yes"}, "unbiased", None),
    ],
)
def test_a_bad_config_says_which_key(config: dict, key: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        codec_from_config(config)
    assert (caught.value.key, caught.value.nearest) == (key, nearest)
    assert key in str(caught.value)


def test_a_whole_number_will_do_for_a_float() -> None:
    assert codec_from_config({"codec_id": "deadzone", "step": 2}) == codec_from_config(
        {"codec_id": "deadzone", "step": 2.0}
    )


def test_sums_check_what_they_add_to(mask: Mask) -> None:
    decoded = DecodedUpdate(mask=mask, dense=np.ones(mask.num_live, np.float32))
    for total, weight in (
        (np.zeros(77), 1),
        (np.zeros(78, np.float32), 1),
        (np.zeros(78), -1),
        (np.zeros(78), 2**32),
    ):
        with pytest.raises(CodecError):
            decoded.add_to(total, weight=weight)
    with pytest.raises(CodecError):
        DecodedUpdate(mask=mask)


def test_a_tiny_update_stays_near_its_entropy() -> None:
    rng = np.random.default_rng(0)
    mask = dense(3000, 1500, 500)
    codes = np.zeros(5000)
    codes[rng.choice(5000, 100, replace=False)] = rng.geometric(0.6, 100) * rng.choice([-1, 1], 100)
    step = 1 / float(np.sqrt(np.mean(codes**2)))
    codec = codec_from_config({"codec_id": "deadzone", "step": step, "deadzone": 0.5, "tradeoff": 0})
    values = codes.astype(np.float32)
    frame = encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec)
    decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE)
    assert np.array_equal(decoded.values(), values)
    counts = np.unique(codes, return_counts=True)[1]
    entropy_bytes = -float(np.sum(counts * np.log2(counts / counts.sum()))) / 8
    assert len(frame) <= 1.25 * entropy_bytes


def test_filters_that_rest_cost_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    layout = Layout(tensors=(TensorSpec(name="w", shape=(200, 100), kind="linear", prunable=True),))
    busy, spread = np.zeros((200, 100), np.float32), np.zeros(20_000, np.float32)
    busy[::10] = rng.normal(size=(20, 100))
    spread[rng.choice(20_000, 2000, replace=False)] = busy[::10].reshape(-1)
    codec = codec_from_config({"codec_id": "uniform", "bits": 3})
    sizes = [len(codec.encode(values.reshape(-1), mask=Mask.dense(layout))) for values in (busy, spread)]
    assert sizes[0] < 0.55 * sizes[1]


def test_an_update_that_explains_nothing_sends_nothing() -> None:
    mask = dense(1000)
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    codec = codec_from_config({"codec_id": "deadzone", "step": 64.0})
    assert codec.encode(values, mask=mask)[0] == 0
    assert codec.decode(codec.encode(values, mask=mask), mask=mask).num_nonzero == 0
