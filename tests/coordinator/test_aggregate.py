"""The mean of updates: exact, whatever the order."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from hedgerow_codecs import DecodedUpdate, Layout, Mask, TensorSpec
from hedgerow_coordinator.aggregate import Aggregator
from hedgerow_coordinator.errors import AggregationError

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a", shape=(4,), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(2,), kind="bias", prunable=False),
    )
)
MASK = Mask(layout=LAYOUT, live=np.array([True, False, True, True, True, True]))


def sparse(codes: dict[int, int], *, steps: tuple[float, float]) -> DecodedUpdate:
    return DecodedUpdate(
        mask=MASK,
        positions=np.array(list(codes), np.int64),
        codes=np.array(list(codes.values()), np.int32),
        steps=np.array(steps, np.float64),
    )


def dense(*values: float) -> DecodedUpdate:
    return DecodedUpdate(mask=MASK, dense=np.array(values, np.float32))


def test_the_mean_is_weighted() -> None:
    aggregator = Aggregator(MASK.num_live)
    aggregator.add(sparse({0: 2, 4: -1}, steps=(0.5, 4.0)), weight=3)
    aggregator.add(dense(1, 1, 1, 1, 1), weight=1)
    assert aggregator.mean().tolist() == [1.0, 0.25, 0.25, 0.25, -2.75]
    assert aggregator.mean().dtype == np.float64
    assert (aggregator.num_updates, aggregator.total_weight) == (2, 4)


def test_the_mean_does_not_depend_on_the_order() -> None:
    # Steps and weights so far apart that float32 sums, or a running mean, would round.
    updates = [
        (sparse({0: 2_000_001, 1: 1, 4: -7}, steps=(2.0**-20, 1.25)), 16_777_215),
        (sparse({0: -3, 3: 99_999}, steps=(7 * 2.0**-22, 0.0)), 1),
        (sparse({0: 1, 1: -1, 2: 1}, steps=(5 * 2.0**3, 0.0)), 4097),
        (sparse({0: 5, 4: 123_457}, steps=(2.0**-20, 2.0**-9)), 3),
    ]
    total = sum(weight for _, weight in updates)
    expected = [Fraction(0)] * 5
    for update, weight in updates:
        assert update.positions is not None
        assert update.codes is not None
        assert update.steps is not None
        for position, code in zip(update.positions, update.codes, strict=True):
            step = update.steps[0 if position < 3 else 1]
            expected[position] += Fraction(float(step)) * int(code) * weight / total
    for order in itertools.permutations(updates):
        aggregator = Aggregator(MASK.num_live)
        for update, weight in order:
            aggregator.add(update, weight=weight)
        assert aggregator.mean().tolist() == [float(value) for value in expected]


def test_nothing_has_no_mean() -> None:
    with pytest.raises(AggregationError, match="there is no update to average"):
        Aggregator(5).mean()


@pytest.mark.parametrize("weight", [0, -1, 2**24 + 1, 1.0, True])
def test_weights_out_of_range_are_refused(weight: int) -> None:
    aggregator = Aggregator(MASK.num_live)
    with pytest.raises(AggregationError, match=f"must be from 1 to 16777216, not {weight}"):
        aggregator.add(dense(1, 1, 1, 1, 1), weight=weight)
    aggregator.add(dense(1, 1, 1, 1, 1), weight=2**24)
    assert aggregator.mean().tolist() == [1.0] * 5


def test_a_refused_update_changes_nothing() -> None:
    aggregator = Aggregator(MASK.num_live)
    aggregator.add(dense(1, 2, 3, 4, 5), weight=1)
    with pytest.raises(AggregationError, match="not finite"):
        aggregator.add(dense(1, np.nan, 1, 1, 1), weight=1)
    other = Mask.dense(LAYOUT)
    with pytest.raises(AggregationError, match="has 6 values, this round's model has 5"):
        aggregator.add(DecodedUpdate(mask=other, dense=np.ones(6, np.float32)), weight=1)
    assert aggregator.mean().tolist() == [1, 2, 3, 4, 5]
    assert aggregator.total_weight == 1
