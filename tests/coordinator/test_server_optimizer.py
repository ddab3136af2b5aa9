"""Steps of the server: exact small numbers for averaging, momentum and Adam."""

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.server_optimizer import AggregationSettings, server_step

LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(4,), kind="linear", prunable=True),))
DENSE = Mask.dense(LAYOUT)


def walk(means, *, masks=None, **settings):
    moments, steps = {}, []
    for mean, mask in zip(means, masks or [DENSE] * len(means), strict=True):
        step, moments = server_step(
            np.array(mean, np.float64), mask=mask, moments=moments, settings=AggregationSettings(**settings)
        )
        steps.append(step.tolist())
    return steps, moments


def test_by_default_the_step_is_the_mean_and_nothing_is_remembered():
    steps, moments = walk([[1.0, 2.0, -3.0, 0.0]])
    assert steps == [[1.0, 2.0, -3.0, 0.0]]
    assert moments == {}


def test_the_learning_rate_scales_the_step():
    assert walk([[1.0, 2.0, -3.0, 0.0]], server_learning_rate=0.5)[0] == [[0.5, 1.0, -1.5, 0.0]]


def test_momentum_takes_a_share_of_the_step_before_again():
    steps, _ = walk([[1.0, 0.0, 0.0, 4.0]] * 3, server_momentum=0.5)
    assert steps == [[1.0, 0.0, 0.0, 4.0], [1.5, 0.0, 0.0, 6.0], [1.75, 0.0, 0.0, 7.0]]


def test_adam_is_that_of_reddi_2021():
    steps, _ = walk(
        [[1.0, 0.0, -2.0, 4.0]] * 2,
        optimizer="adam",
        server_learning_rate=0.1,
        server_momentum=0.5,
        second_moment_decay=0.75,
        epsilon=0.5,
    )
    mean = np.array([1.0, 0.0, -2.0, 4.0])
    first, second = 0.5 * mean, 0.25 * mean**2
    assert steps[0] == pytest.approx(0.1 * first / (np.sqrt(second) + 0.5))
    first, second = 0.5 * first + 0.5 * mean, 0.75 * second + 0.25 * mean**2
    assert steps[1] == pytest.approx(0.1 * first / (np.sqrt(second) + 0.5))


def test_a_weight_that_was_pruned_and_grows_again_starts_without_momentum():
    without_first = Mask(layout=LAYOUT, live=np.array([False, True, True, True]))
    steps, moments = walk(
        [[1.0] * 4, [1.0] * 3, [1.0] * 4], masks=[DENSE, without_first, DENSE], server_momentum=0.5
    )
    assert steps == [[1.0] * 4, [1.5] * 3, [1.0, 1.75, 1.75, 1.75]]
    assert moments["first"].dtype == np.float32


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "lion"}, "optimizer must be"),
        ({"server_momentum": 1.0}, "server_momentum must be"),
        ({"second_moment_decay": -0.1}, "second_moment_decay must be"),
        ({"epsilon": 0.0}, "epsilon must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        AggregationSettings(**settings)
