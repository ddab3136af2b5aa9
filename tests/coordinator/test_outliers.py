"""One device whose training has run away does not make the mean; honest ones are not left out."""

from dataclasses import replace

import numpy as np
import pytest

from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.outliers import find_outliers
from hedgerow_coordinator.server_optimizer import AggregationSettings


@pytest.mark.parametrize(
    ("norms", "found"),
    [
        ({}, set()),
        ({"a": 1e9}, set()),
        ({"a": 2.0, "b": 21.0}, {"b"}),
        ({"a": 2.0, "b": 20.0}, set()),  # ten times is not more than ten times
        ({"a": 0.2, "b": 4.9}, set()),  # less than the model
        ({"a": 0.2, "b": 5.1}, {"b"}),
        ({"a": 0.0, "b": 0.0, "c": 6.0}, {"c"}),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1e6, "e": 1e9}, {"d", "e"}),
        ({"a": 1.0, "b": 1.0, "c": 1e6, "d": 1e6, "e": 1e6}, set()),  # the most are not outliers
    ],
)
def test_an_outlier_is_far_larger_than_the_others_and_than_the_model(norms, found):
    assert find_outliers(norms, ratio=10.0, model_norm=lambda: 5.0).keys() == found
    assert find_outliers(norms, ratio=0.0, model_norm=lambda: 5.0) == {}


@pytest.mark.parametrize("ratio", [-1.0, 0.5, 1.9, float("nan"), float("inf")])
def test_a_ratio_that_honest_devices_would_exceed_is_refused(ratio):
    with pytest.raises(SettingError, match="outlier_ratio"):
        AggregationSettings(outlier_ratio=ratio)


def far_off(result):
    return replace(result, weights=result.weights + np.float32(1e6))


def test_an_update_that_is_far_off_is_left_out_and_said(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2))
    rig.fake.outcomes["b", 1] = far_off
    rig.run()
    assert rig.coordinator.failure is None
    assert rig.counted() == [(1, "a"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]
    assert np.abs(rig.coordinator.state.weights).max() < 1
    (notice,) = [notice for notice in rig.notices if "without b" in notice]
    length = f"{1e6 * np.sqrt(rig.layout.num_parameters):.3g}"
    assert notice.startswith(f"round 1 goes on without b: its update is {length} long, the others' ")
    (event,) = [event for event in rig.store.events() if event.kind == "outlier"]
    assert event.detail.startswith(f"b: its update is {length} long")
    assert event.detail.endswith("round 1 goes on without it")
    _, first, second = rig.store.rounds()
    assert (first.updates, first.cohort) == (2, 3)
    # What b has received for it is counted all the same.
    assert first.delivered_bytes > 0.9 * second.delivered_bytes


def test_the_mean_is_that_of_the_others(make_plan, make_rig):
    weights = []
    for outcome in (far_off, "it is ill"):
        rig = make_rig(make_plan(rounds=1))
        rig.fake.outcomes["b", 1] = outcome
        rig.run()
        weights.append(rig.coordinator.state.weights)
    assert np.array_equal(*weights)


def test_it_is_taken_where_the_plan_compares_nothing(make_plan, make_rig):
    rig = make_rig(replace(make_plan(rounds=1), aggregation=AggregationSettings(outlier_ratio=0)))
    rig.fake.outcomes["b", 1] = far_off
    rig.run()
    assert (1, "b") in rig.counted()
    assert np.abs(rig.coordinator.state.weights).min() > 1e5


def test_it_has_answered_so_the_round_ends_at_once(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, quorum=1.0))
    rig.fake.outcomes["b", 1] = far_off
    rig.run()
    assert rig.coordinator.failure is None
    assert rig.store.rounds()[1].seconds == 0.0
    assert rig.counted() == [(1, "a"), (1, "c")]


def test_a_coordinator_that_is_killed_before_the_round_closes_finds_it_too(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2))
    rig.fake.outcomes["b", 1] = far_off
    rig.silent = {"c"}
    rig.start()
    rig.until(lambda: rig.counted() == [(1, "a"), (1, "b")])
    rig.restart_coordinator()
    rig.silent = set()
    rig.to_end()
    assert rig.coordinator.failure is None
    assert (1, "b") not in rig.counted()
    assert np.abs(rig.coordinator.state.weights).max() < 1
