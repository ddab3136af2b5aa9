"""Masks made by a policy: schedule, selection, first masks."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.errors import DensityError, PruningError, SettingError
from hedgerow_coordinator.pruning.masking import initial_mask, prune, rescaled
from hedgerow_coordinator.pruning.policy import PruningPolicy
from hedgerow_coordinator.pruning.score import magnitude_scores, random_scores
from hedgerow_coordinator.pruning.selection import largest


def layout() -> Layout:
    return Layout(
        tensors=(
            TensorSpec(name="a.weight", shape=(4, 5), kind="linear", prunable=True),
            TensorSpec(name="a.bias", shape=(4,), kind="bias", prunable=False),
            TensorSpec(name="b.weight", shape=(4, 4), kind="linear", prunable=True),
        )
    )


def weights(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(layout().num_parameters).astype(np.float32)


def once(density: float, *, budget: str = "uniform", protect: tuple[str, ...] = ()) -> PruningPolicy:
    return PruningPolicy(schedule="one-shot", start_round=2, density=density, budget=budget, protect=protect)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (PruningPolicy(start_round=2, end_round=6), [1.0, 1.0, 0.5375, 0.3, 0.2125, 0.2, 0.2]),
        (PruningPolicy(start_round=2, end_round=6, every=2), [1.0, 1.0, 1.0, 0.3, 0.3, 0.2, 0.2]),
        (PruningPolicy(start_round=2, end_round=6, every=3), [1.0, 1.0, 1.0, 1.0, 0.2125, 0.2, 0.2]),
        (PruningPolicy(start_round=1, end_round=1), [0.2] * 7),
        (
            PruningPolicy(initial_density=0.6, start_round=2, end_round=4),
            [0.6, 0.6, 0.25, 0.2, 0.2, 0.2, 0.2],
        ),
        (PruningPolicy(schedule="one-shot", start_round=3), [1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 0.2]),
        (PruningPolicy(schedule="constant"), [0.2] * 7),
        (PruningPolicy(policy="none"), [1.0] * 7),
    ],
)
def test_density_by_round(policy: PruningPolicy, expected: list[float]) -> None:
    assert [policy.density_at(number) for number in range(1, 8)] == pytest.approx(expected, abs=1e-12)


@given(scores=st.lists(st.integers(-3, 3), max_size=30), data=st.data())
def test_largest_is_a_literal_sort(scores: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(scores)))
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
    chosen = largest(np.array(scores, np.float32), count)
    assert np.flatnonzero(chosen).tolist() == sorted(best)


@pytest.mark.parametrize("budget", ["erk", "uniform", "global"])
def test_the_weakest_of_each_tensor_go(budget: str) -> None:
    flat, dense = weights(), Mask.dense(layout())
    mask = prune(flat, mask=dense, policy=once(0.5, budget=budget), round=2)
    assert mask.num_live == 20
    assert mask.lengths[1] == 4
    for start, end in ((0, 20), (24, 40)):
        magnitude, live = np.abs(flat[start:end]), mask.live[start:end]
        assert magnitude[live].min() > magnitude[~live].max()


def test_global_keeps_the_largest_of_the_model() -> None:
    flat = weights()
    mask = prune(flat, mask=Mask.dense(layout()), policy=once(0.5, budget="global"), round=2)
    prunable = layout().prunable()
    magnitude = np.abs(flat)
    assert magnitude[prunable & mask.live].min() > magnitude[prunable & ~mask.live].max()


def test_equal_weights_go_by_position() -> None:
    flat = np.ones(40, np.float32)
    flat[::2] = -1.0
    mask = prune(flat, mask=Mask.dense(layout()), policy=once(0.5), round=2)
    assert mask.lengths == (9, 4, 7)
    assert np.flatnonzero(~mask.live).tolist() == [*range(9, 20), *range(31, 40)]


@pytest.mark.parametrize("budget", ["erk", "uniform", "global"])
def test_a_pruned_weight_does_not_come_back(budget: str) -> None:
    policy = PruningPolicy(start_round=1, end_round=6, density=0.3, budget=budget)
    mask = Mask.dense(layout())
    for number in range(1, 8):
        # New weights each round: what is dead may look strong again.
        after = prune(weights(number), mask=mask, policy=policy, round=number)
        assert not (after.live & ~mask.live).any()
        assert after.num_live == math.floor(policy.density_at(number) * 40 + 1e-6)
        mask = after
    assert mask.num_live == 12


def test_a_mask_that_is_thin_enough_stays_itself() -> None:
    mask = prune(weights(), mask=Mask.dense(layout()), policy=once(0.5), round=2)
    assert prune(weights(9), mask=mask, policy=once(0.5), round=3) is mask
    assert prune(weights(9), mask=mask, policy=once(0.9), round=3) is mask
    assert prune(weights(9), mask=mask, policy=PruningPolicy(policy="none"), round=3) is mask


def test_protected_tensors_stay_dense() -> None:
    mask = prune(weights(), mask=Mask.dense(layout()), policy=once(0.7, protect=("a.weight",)), round=2)
    assert mask.lengths == (20, 4, 4)


def test_the_policy_is_checked_against_the_model() -> None:
    with pytest.raises(SettingError, match=r"\[pruning\] protect names 'a.wieght'.*did you mean 'a.weight'"):
        PruningPolicy(protect=("a.wieght",)).check(layout())
    with pytest.raises(DensityError, match=r"never pruned hold 24 .* least possible density is 0\.625"):
        PruningPolicy(protect=("a.weight",)).check(layout())
    PruningPolicy(policy="none", density=0.01).check(layout())
    PruningPolicy(density=0.15).check(layout())


def test_a_weight_that_is_not_finite_names_its_tensor() -> None:
    for value in (np.nan, np.inf, -np.inf):
        flat = weights()
        flat[30] = value
        with pytest.raises(PruningError, match=r"b\.weight"):
            magnitude_scores(flat, layout())


def test_random_scores_are_splitmix64() -> None:
    def splitmix64(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    golden, seed = 0x9E3779B97F4A7C15, 2**63 + 5
    assert splitmix64(golden) == 0xE220A8397B1DCDAF  # the published first output for state 0
    start = splitmix64((seed + 1) * golden % 2**64)
    expected = [splitmix64((start + i + 1) * golden % 2**64) >> 40 for i in range(40)]
    assert random_scores(layout(), seed=seed).tolist() == expected


def test_first_masks() -> None:
    flat = weights()
    assert initial_mask(flat, layout=layout(), policy=PruningPolicy(), seed=7) == Mask.dense(layout())
    sparse = PruningPolicy(initial_density=0.5, budget="uniform")
    mask = initial_mask(flat, layout=layout(), policy=sparse, seed=7)
    assert mask.lengths == (9, 4, 7)
    assert mask == initial_mask(weights(2), layout=layout(), policy=sparse, seed=7)
    assert mask != initial_mask(flat, layout=layout(), policy=sparse, seed=8)
    by_score = initial_mask(flat, layout=layout(), policy=sparse, seed=7, by_score=True)
    assert by_score == prune(flat, mask=Mask.dense(layout()), policy=sparse, round=1)


def test_first_weights_keep_their_scale() -> None:
    live = np.ones(40, np.bool_)
    live[5:20] = False
    mask = Mask(layout=layout(), live=live)
    flat = rescaled(weights(), mask=mask)
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(flat[:5], weights()[:5] * 2)
    assert not flat[5:20].any()
    np.testing.assert_array_equal(flat[20:], weights()[20:])


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["erk", "uniform", "global"])
def test_eleven_million_weights_take_about_a_second(budget: str) -> None:
    shapes = [(1000, 1000)] * 11
    large = Layout(
        tensors=tuple(
            TensorSpec(name=f"t{index}", shape=shape, kind="linear", prunable=True)
            for index, shape in enumerate(shapes)
        )
    )
    flat = np.random.default_rng(0).standard_normal(large.num_parameters, np.float32)
    dense = Mask.dense(large)
    began = time.perf_counter()
    mask = prune(flat, mask=dense, policy=once(0.2, budget=budget), round=2)
    seconds = time.perf_counter() - began
    assert mask.num_live == 2_200_000
    assert seconds < 3, f"{seconds:.2f} s"
