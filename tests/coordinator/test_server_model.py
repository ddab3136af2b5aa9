"""From version to version: the mean, the mask, and the steps that take the clients along."""

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, codec_from_config
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.server_model import averaged, keyframe, published_digest, stepped
from hedgerow_edge_client import Replica

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="w", shape=(4, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(4,), kind="bias", prunable=False),
    )
)


def mask_without(*dead):
    live = np.ones(16, bool)
    live[list(dead)] = False
    return Mask(layout=LAYOUT, live=live)


def state_of(weights, *, mask=None, published=None):
    weights = np.asarray(weights, np.float32)
    return ServerState(
        version=3,
        mask=mask or Mask.dense(LAYOUT),
        weights=weights,
        published=weights.copy() if published is None else np.asarray(published, np.float32),
    )


def test_the_mean_moves_live_weights_alone():
    mask = mask_without(0, 5)
    weights = np.where(mask.live, np.arange(16), 0)
    moved = averaged(state_of(weights, mask=mask), np.full(14, 0.25))
    assert moved.tolist() == [n + 0.25 if n not in (0, 5) else 0.0 for n in range(16)]
    assert moved.dtype == np.float32


@pytest.mark.parametrize("codec", ["float32", "fp16", "uniform", "deadzone", "topk"])
def test_a_client_that_takes_the_steps_has_the_published_model_to_the_bit(codec):
    before = state_of(np.linspace(-1, 1, 16))
    weights = before.weights + np.float32(0.013)
    after, steps = stepped(
        before, weights, mask=mask_without(1, 2), codec=codec_from_config({"codec_id": codec})
    )
    assert [kind for kind, _ in steps] == ["mask_delta", "model_delta"]
    assert after.version == 4
    replica = Replica(version=3, mask=before.mask, weights=before.published).advanced(steps, version=4)
    assert replica.digest == published_digest(after)
    assert replica.weights.tobytes() == after.published.tobytes()
    assert after.weights[[1, 2]].tolist() == after.published[[1, 2]].tolist() == [0.0, 0.0]


def test_without_a_new_mask_there_is_no_mask_step():
    before = state_of(np.ones(16))
    _, steps = stepped(
        before, before.weights, mask=Mask.dense(LAYOUT), codec=codec_from_config({"codec_id": "float32"})
    )
    assert [kind for kind, _ in steps] == ["model_delta"]


def test_what_the_codec_leaves_out_goes_out_later():
    # Of 16 weights, top-k with a sixteenth sends one: the others follow, the largest first.
    codec = codec_from_config({"codec_id": "topk", "fraction": 1 / 16})
    target = np.zeros(16, np.float32)
    target[[2, 7, 11]] = [1.0, 0.5, 0.25]
    state = state_of(target, published=np.zeros(16))
    open_positions = []
    for _ in range(3):
        state, _ = stepped(state, state.weights, mask=state.mask, codec=codec)
        open_positions.append(np.flatnonzero(np.abs(state.weights - state.published) > 0.1).tolist())
    assert open_positions == [[7, 11], [11], []]


def test_a_weight_that_grows_again_starts_at_zero():
    mask = mask_without(3)
    before = state_of(np.where(mask.live, 1.0, 0.0), mask=mask)
    after, steps = stepped(
        before, before.weights, mask=Mask.dense(LAYOUT), codec=codec_from_config({"codec_id": "float32"})
    )
    assert after.weights[3] == after.published[3] == 0.0
    assert Replica(version=3, mask=mask, weights=before.published).advanced(
        steps, version=4
    ).digest == published_digest(after)


def test_a_keyframe_brings_the_published_model_from_nothing_without_loss():
    mask = mask_without(0, 9)
    published = np.where(mask.live, np.linspace(-3, 3, 16) / 7, 0).astype(np.float32)
    state = state_of(np.where(mask.live, 5.0, 0.0), mask=mask, published=published)
    replica = Replica.empty(LAYOUT).advanced(keyframe(state), version=3)
    assert replica.weights.tobytes() == published.tobytes()
    assert replica.digest == published_digest(state)
