"""Scores by their formulas, on numbers that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.errors import PruningError, SettingError
from hedgerow_coordinator.pruning import (
    SCORES,
    Evidence,
    PruningPolicy,
    lamp_scores,
    prune,
    row_norms,
    softened,
    update_scores,
)


def layout_of(*shapes: tuple[int, ...], fixed: tuple[int, ...] = ()) -> Layout:
    return Layout(
        tensors=tuple(
            TensorSpec(name=f"t{index}", shape=shape, kind="other", prunable=index not in fixed)
            for index, shape in enumerate(shapes)
        )
    )


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_lamp_divides_by_what_is_at_least_as_large() -> None:
    # Squares 1, 4, 9 and 16: 1/30, 4/29, 9/25, 16/16.
    scores = lamp_scores(array(1, -2, 3, -4, 0.5, 0), layout_of((4,), (2,)))
    assert scores.tolist() == pytest.approx([1 / 30, 4 / 29, 9 / 25, 1, 1, 0])


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=20))
def test_lamp_is_the_literal_formula(numbers: list[int]) -> None:
    scores = lamp_scores(np.array(numbers, np.float32), layout_of((len(numbers),)))
    # Equal weights: in the paper's order, each over itself and those after it.
    order = sorted(range(len(numbers)), key=lambda i: (numbers[i] ** 2, i))
    for place, index in enumerate(order):
        rest = sum(numbers[i] ** 2 for i in order[place:])
        assert scores[index] == pytest.approx(numbers[index] ** 2 / rest if rest else 0, rel=1e-6)


def test_the_global_budget_with_lamp_is_lamp_pruning() -> None:
    layout = layout_of((4,), (4,))
    flat = array(8, 6, 5, 4, 0.4, 0.3, 0.02, 0.01)
    policy = PruningPolicy(score="lamp", budget="global", schedule="constant", density=0.5)
    mask = prune(flat, mask=Mask.dense(layout), policy=policy, round=1)
    scores = lamp_scores(flat, layout)
    assert scores[mask.live].min() >= scores[~mask.live].max()
    with_budget = PruningPolicy(budget="lamp", schedule="constant", density=0.5)
    assert prune(flat, mask=Mask.dense(layout), policy=with_budget, round=1).lengths == mask.lengths


def test_update_scores_are_exact_where_the_gradient_has_rank_one() -> None:
    rows, columns = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.5, 2.0, 0.25])
    whole = np.outer(rows, columns).astype(np.float32)
    live = np.ones((3, 4), np.bool_)
    live[1, 2] = live[0, 0] = False
    layout = layout_of((3, 4))
    seen = np.where(live, whole, 0).astype(np.float32).reshape(-1)
    scores = update_scores(seen, live.reshape(-1), layout)
    assert np.array_equal(scores[live.reshape(-1)], whole[live])
    assert scores[1 * 4 + 2] == pytest.approx(4.0, rel=0.02)
    assert scores[0] == pytest.approx(1.0, rel=0.02)


def test_update_scores_say_nothing_where_nothing_moved() -> None:
    layout = layout_of((2, 2), (3,))
    live = np.array([1, 0, 1, 1, 1, 0, 1], np.bool_)
    assert update_scores(array(0, 0, 0, 0, 1, 0, -2), live, layout).tolist() == [0, 0, 0, 0, 1, 0, 2]


def test_row_norms_and_the_threshold_take_whole_rows() -> None:
    layout = layout_of((3, 2), (2, 2), (2,), fixed=(2,))
    flat = array(3, 4, 0, 1, 6, 8, 0.1, 0.1, 0.2, 0.1, 1, 1)
    assert row_norms(flat, layout)[:6].tolist() == [5, 5, 1, 1, 10, 10]
    policy = PruningPolicy(score="row-norm", budget="threshold", schedule="one-shot", threshold=2.0)
    assert prune(flat, mask=Mask.dense(layout), policy=policy, round=1).density == 1
    mask = prune(flat, mask=Mask.dense(layout), policy=policy, round=2)
    # The second tensor has no row above 2: its best one stays.
    assert mask.live.tolist() == [True, True, False, False, True, True, False, False, True, True, True, True]


def test_soft_weights_are_the_formula_to_the_letter() -> None:
    layout = layout_of((3, 2), (2,), fixed=(1,))
    flat = array(3, 4, 0, 1, 6, 8, 7, 7)
    # Norms 5, 1, 10; alpha 20: p = .75, .95, .5, sum 2.2.
    soft = softened(flat, layout, alpha=20.0)
    factors = np.array([0.75, 0.95, 0.5]) / 2.2
    assert soft[:6] == pytest.approx(np.repeat(factors, 2) * flat[:6])
    assert soft[6:].tolist() == [7, 7]
    # Alpha 0 is the largest norm: the strongest row becomes zero.
    assert softened(flat, layout, alpha=0.0).tolist()[4:6] == [0, 0]
    equal = softened(array(1, 0, 1, 0, 1, 0, 7, 7), layout, alpha=0.0)
    assert equal[:6] == pytest.approx([1 / 3, 0] * 3)


def test_a_score_says_what_it_lacks() -> None:
    layout = layout_of((4,))
    policy = PruningPolicy(score="movement", schedule="constant", density=0.5)
    with pytest.raises(PruningError, match="there is no movement to score the weights by yet"):
        prune(array(1, 2, 3, 4), mask=Mask.dense(layout), policy=policy, round=2)
    known = Evidence(weights=array(1, 2, 3, 4), mask=Mask.dense(layout), movement=array(4, 3, -1, -9))
    mask = prune(known.weights, mask=known.mask, policy=policy, round=2, evidence=known)
    assert mask.live.tolist() == [True, True, False, False]


def test_device_scores_choose() -> None:
    layout = layout_of((4,))
    known = Evidence(weights=array(9, 9, 1, 1), mask=Mask.dense(layout), device=array(-3, 1, -2, 0))
    for score, expected in {"snip": [1, 0, 1, 0], "fisher": [0, 1, 0, 1], "grasp": [0, 1, 0, 1]}.items():
        policy = PruningPolicy(score=score, schedule="constant", density=0.5)
        mask = prune(known.weights, mask=known.mask, policy=policy, round=2, evidence=known)
        assert mask.live.astype(int).tolist() == expected, score


def test_every_score_tells_source_and_cost() -> None:
    for name, score in SCORES.items():
        assert score.meaning, name
        assert score.source, name
        assert (score.traffic == "nothing") == (score.origin == "gateway") == (score.wire == ""), name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"regrow": 0.1, "grow": "snip"}, "grow must be a score of pruned weights"),
        ({"regrow": 0.1, "rewind": True}, "rewind must be false"),
        ({"regrow": 0.1, "density": 1.0, "initial_density": 1.0}, "regrow must be 0 when density is 1"),
        ({"policy": "vote"}, "regrow must be above 0"),
        ({"power": 2.0, "regrow": 0.1}, "power must be 1 when regrow is not 0"),
        ({"biased": True}, "biased must be false with policy"),
        ({"power": 0.5}, "power must be at least 1"),
        ({"tolerance": 0.1, "reaction": "revert", "rewind": True}, "reaction must be"),
        ({"tolerance": 0.1, "policy": "soft"}, "tolerance must be 0"),
        ({"policy": "vote", "regrow": 0.1}, 'grow must be "gradient" or "random"'),
        ({"policy": "tiered"}, "tiers must name the weaker devices"),
        ({"tiers": {"a": 0.5}}, "tiers must be empty"),
        ({"policy": "tiered", "tiers": {"a": 1.5}}, "tiers must give 'a' a share"),
        ({"budget": "threshold"}, "threshold must be above 0"),
        ({"budget": "threshold", "threshold": 1.0}, 'schedule must be "one-shot"'),
        ({"schedule": "adaptive"}, 'score must be "squared-gradient"'),
        ({"score": "squared-gradient"}, 'schedule must be "adaptive"'),
        ({"score": "fisher", "regrow": 0.1, "grow": "gradient"}, "a round asks for one"),
        ({"score_codec": {"codec_id": "none"}}, "score_codec is refused"),
        ({"schedule": "adaptive", "score": "squared-gradient", "times": {"a": 0}}, "times must give 'a'"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(**settings)  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 200
