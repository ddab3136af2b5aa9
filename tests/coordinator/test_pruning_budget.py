"""Budgets: exact counts, laws of the division, and the literal formulas beside the fast ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_coordinator.errors import DensityError
from hedgerow_coordinator.pruning.budget import (
    BUDGETS,
    Candidates,
    divide,
    erk_budget,
    global_budget,
    uniform_budget,
)


def layout_of(*shapes: tuple[int, ...], fixed: tuple[int, ...] = ()) -> Layout:
    return Layout(
        tensors=tuple(
            TensorSpec(name=f"t{index}", shape=shape, kind="other", prunable=index not in fixed)
            for index, shape in enumerate(shapes)
        )
    )


def lenet() -> Layout:
    """The layers of LeNet-300-100 with a convolution in front, biases fixed."""
    shapes = ((32, 1, 3, 3), (32,), (300, 784), (300,), (100, 300), (100,), (10, 100), (10,))
    return layout_of(*shapes, fixed=(1, 3, 5, 7))


def literal_erk(layout: Layout, num_live: int) -> list[float]:
    """Densities as the sparse layers of Evci's published code find them: one more dense layer per pass."""
    dense = {index for index, tensor in enumerate(layout.tensors) if not tensor.prunable}
    while True:
        raw = [sum(tensor.shape) / math.prod(tensor.shape) for tensor in layout.tensors]
        budget = num_live - sum(layout.tensors[index].size for index in dense)
        open_tensors = [index for index in range(len(raw)) if index not in dense]
        divisor = sum(raw[index] * layout.tensors[index].size for index in open_tensors)
        epsilon = budget / divisor
        largest = max(raw[index] for index in open_tensors)
        if epsilon * largest <= 1:
            return [1.0 if index in dense else epsilon * raw[index] for index in range(len(raw))]
        dense |= {index for index in open_tensors if raw[index] == largest}


@pytest.mark.parametrize("density", [0.02, 0.05, 0.2, 0.5, 0.9])
def test_erk_is_the_published_formula(density: float) -> None:
    layout = lenet()
    counts = erk_budget(Candidates(layout=layout), density)
    num_live = math.floor(density * layout.num_parameters + 1e-6)
    assert sum(counts) == num_live
    for tensor, count, expected in zip(layout.tensors, counts, literal_erk(layout, num_live), strict=True):
        assert abs(count - expected * tensor.size) < 1, tensor.name


def test_erk_clips_small_tensors_and_gives_their_share_to_others() -> None:
    # Shares 4 and 20; a half of 104 is 52: 4 * 52/24 would be 8.7 of 4 weights.
    assert erk_budget(Candidates(layout=layout_of((2, 2), (10, 10))), 0.5) == (4, 48)


def test_uniform_gives_each_tensor_the_same_density() -> None:
    assert uniform_budget(Candidates(layout=layout_of((10,), (20,), (10,))), 0.25) == (3, 5, 2)


def test_density_counts_tensors_that_are_never_pruned() -> None:
    layout = layout_of((10,), (30,), fixed=(0,))
    assert uniform_budget(Candidates(layout=layout), 0.5) == (10, 10)
    assert uniform_budget(Candidates(layout=layout_of((10,), (30,)), protect=("t0",)), 0.5) == (10, 10)


def test_global_takes_the_best_of_the_whole_model() -> None:
    layout = layout_of((4,), (4,), (2,), fixed=(2,))
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2, 0, 0], np.float32)
    assert global_budget(Candidates(layout=layout, scores=scores), 0.7) == (4, 1, 2)


def test_global_leaves_no_tensor_empty_unless_asked() -> None:
    layout = layout_of((4,), (4,), (4,))
    scores = np.array([9, 9, 9, 9, 1, 2, 3, 4, 5, 5, 5, 5], np.float32)
    assert global_budget(Candidates(layout=layout, scores=scores), 0.5) == (4, 1, 1)
    assert global_budget(Candidates(layout=layout, scores=scores, least=0), 0.5) == (4, 0, 2)


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_no_tensor_gets_more_than_it_has_live(name: str) -> None:
    layout = layout_of((10,), (10,), (10,))
    live = np.ones(30, np.bool_)
    live[1:10] = False
    scores = np.arange(30, 0, -1).astype(np.float32)
    counts = BUDGETS[name](Candidates(layout=layout, live=live, scores=scores, lamp=scores), 0.5)
    assert counts[0] == 1
    assert sum(counts) == 15
    assert max(counts) <= 10


def test_too_low_a_density_states_the_least_possible_one() -> None:
    candidates = Candidates(layout=layout_of((10,), (30,), (960,), fixed=(0,)))
    with pytest.raises(DensityError) as caught:
        uniform_budget(candidates, 0.005)
    assert str(caught.value) == (
        "density 0.005 leaves 5 of 1000 weights, but the tensors that are never pruned hold 10 and the "
        "others keep at least 1 each: the least possible density is 0.012"
    )
    assert uniform_budget(candidates, caught.value.least_density) == (10, 1, 1)


PARTS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 9), st.integers(0, 40)), min_size=1, max_size=8
).map(lambda parts: [(share, low, low + more) for share, low, more in parts])


@given(parts=PARTS, data=st.data())
def test_division_is_proportional_within_bounds(
    parts: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    shares, least, most = zip(*parts, strict=True)
    total = data.draw(st.integers(sum(least), sum(most)))
    counts = divide(total, shares=shares, least=least, most=most)
    assert sum(counts) == total
    assert all(low <= count <= high for count, low, high in zip(counts, least, most, strict=True))
    # There is one level to which all parts are filled, but for less than one unit of rounding.
    free = list(zip(counts, shares, least, most, strict=True))
    highest = min((Fraction(c + 1, s) for c, s, _, high in free if c < high), default=None)
    lowest = max((Fraction(c - 1, s) for c, s, low, _ in free if c > low), default=None)
    assert highest is None or lowest is None or lowest < highest


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    data=st.data(),
)
def test_global_is_a_literal_sort(sizes: list[int], data: st.DataObject) -> None:
    layout = layout_of(*((size,) for size in sizes))
    count = layout.num_parameters
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)), np.float32)
    total = data.draw(st.integers(1, count))
    ranked = sorted(range(count), key=lambda index: (-scores[index], index))[:total]
    expected = tuple(
        sum(layout.offsets[t] <= index < layout.offsets[t + 1] for index in ranked) for t in range(len(sizes))
    )
    assert global_budget(Candidates(layout=layout, scores=scores, least=0), total / count) == expected
