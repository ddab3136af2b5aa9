"""Running statistics beside weights: they change by far more, and must not set the step for all."""

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, codec_from_config

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(40, 50), kind="linear", prunable=True),
        TensorSpec(name="n.running_mean", shape=(40,), kind="buffer", prunable=False),
        TensorSpec(name="n.running_var", shape=(40,), kind="buffer", prunable=False),
        TensorSpec(name="b.weight", shape=(10, 40), kind="linear", prunable=True),
    )
)


def delta(*, statistics: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    flat = rng.normal(0, 0.001, LAYOUT.num_parameters).astype(np.float32)
    flat[2000:2080] = rng.normal(0, statistics, 80)
    return flat


@pytest.mark.parametrize("codec_id", ["deadzone", "trellis"])
def test_the_weights_are_sent_as_well_as_without_statistics(codec_id: str) -> None:
    mask, codec = Mask.dense(LAYOUT), codec_from_config({"codec_id": codec_id, "step": 1.0})
    weights = np.r_[0:2000, 2080 : LAYOUT.num_parameters]
    errors = []
    for statistics in (0.001, 5.0):
        flat = delta(statistics=statistics)
        decoded = codec.decode(codec.encode(flat, mask=mask), mask=mask).values()
        errors.append(float(np.abs(decoded - flat)[weights].max()))
        # The statistics themselves are within a step of the weights, too.
        assert np.abs(decoded - flat)[2000:2080].max() < 0.003
    assert errors[1] == pytest.approx(errors[0], rel=0.3)


def test_where_nothing_else_changes_the_statistics_set_the_step() -> None:
    mask, codec = Mask.dense(LAYOUT), codec_from_config({"codec_id": "deadzone", "step": 0.5})
    flat = np.zeros(LAYOUT.num_parameters, np.float32)
    flat[2000:2080] = delta(statistics=5.0)[2000:2080]
    decoded = codec.decode(codec.encode(flat, mask=mask), mask=mask).values()
    assert np.abs(decoded - flat).max() < 2.0
    assert np.count_nonzero(decoded) > 70
