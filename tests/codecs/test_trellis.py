"""Paths through two quantisers: the cheapest of all, and where they lead."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, codec_from_config
from hedgerow_codecs.stages.trellis import choose_indices, path_of, quantizer_bits, to_units


def units_of(indices: list[int]) -> list[int]:
    """Follow the states one by one."""
    units, quantizer, last = [], 0, 0
    for index in indices:
        units.append(2 * index - 1 if quantizer and index else 2 * index)
        quantizer, last = index % 2 ^ last, quantizer
    return units


def test_a_path_through_known_states() -> None:
    indices = np.array([1, 1, 0, 2, 1, 3, 0])
    quantizer = quantizer_bits(indices[None] % 2 > 0)
    assert quantizer.tolist() == [[False, True, True, True, True, False, False]]
    assert to_units(indices, quantizer[0]).tolist() == [2, 1, 0, 3, 1, 6, 0] == units_of(indices.tolist())


def test_every_lane_begins_anew() -> None:
    indices = np.random.default_rng(3).integers(0, 5, 23)
    units = to_units(indices, path_of(indices % 2 > 0, lanes=4)).tolist()
    assert units == [u for lane in range(0, 23, 6) for u in units_of(indices[lane : lane + 6].tolist())]


@pytest.mark.parametrize("seed", range(8))
def test_no_other_path_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, first, more = rng.random(5) * 6, rng.random(5) * 3, rng.random(5)
    found = choose_indices(sizes, first, more, tradeoff=0.5, lanes=1)

    def cost(indices: list[int]) -> float:
        bits = [first[i] + (k - 1) * more[i] if k else 0 for i, k in enumerate(indices)]
        return float(np.sum((sizes - units_of(indices)) ** 2) + 0.5 * np.sum(bits))

    cheapest = min(cost(list(indices)) for indices in itertools.product(range(5), repeat=5))
    assert cost(found.tolist()) == pytest.approx(cheapest)


@pytest.mark.parametrize(("count", "lanes"), [(127, 1), (129, 1), (700, 3), (1000, 7)])
def test_segments_and_lanes_join(count: int, lanes: int) -> None:
    rng = np.random.default_rng(count)
    sizes, nothing = rng.random(count) * 9, np.zeros(count)
    found = choose_indices(sizes, nothing, nothing, tradeoff=0.0, lanes=lanes)
    steps = -(-count // lanes)
    # Each lane alone, state by state.
    for start in range(0, count, steps):
        lane = sizes[start : start + steps]
        best = {(0, 0): 0.0}
        for size in lane:
            following: dict[tuple[int, int], float] = {}
            for (quantizer, last), so_far in best.items():
                for index in range(6):
                    unit = 2 * index - 1 if quantizer and index else 2 * index
                    state = (index % 2 ^ last, quantizer)
                    total = so_far + (size - unit) ** 2
                    following[state] = min(following.get(state, np.inf), total)
            best = following
        units = units_of(found[start : start + steps].tolist())
        assert np.sum((lane - units) ** 2) == pytest.approx(min(best.values()))


def test_it_beats_plain_rounding_of_the_same_size() -> None:
    mask = Mask.dense(Layout(tensors=(TensorSpec(name="w", shape=(150, 200), kind="linear", prunable=True),)))
    values = np.random.default_rng(5).laplace(size=30_000).astype(np.float32)

    def sent(config: dict) -> tuple[int, float]:
        codec = codec_from_config(config)
        payload = codec.encode(values, mask=mask)
        error = values - codec.decode(payload, mask=mask).values()
        return len(payload), float(np.mean(np.square(error, dtype=np.float64)))

    plain_bytes, plain_error = sent({"codec_id": "deadzone", "step": 0.3})
    path_bytes, path_error = sent({"codec_id": "trellis", "step": 0.34})
    assert path_bytes < plain_bytes
    assert path_error < 0.9 * plain_error
