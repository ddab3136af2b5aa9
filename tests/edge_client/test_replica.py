"""The client's copy of the model, step by step."""

import numpy as np
import pytest

from hedgerow_codecs import (
    NO_BASE,
    CodecError,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    encode_frame,
    encode_mask,
    encode_seeded,
    model_digest,
    seeded_parameters,
)
from hedgerow_edge_client import Replica, ReplicaError

LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(4, 3), kind="linear", prunable=True),))
FLOAT32 = codec_from_config({"codec_id": "float32"})
DENSE = Mask.dense(LAYOUT)


def keyframe(values, mask=DENSE):
    frame = encode_frame(
        np.asarray(values, np.float32), kind=FrameKind.KEYFRAME, mask=mask, base=NO_BASE, codec=FLOAT32
    )
    return "keyframe", frame


def delta(values, replica, mask=None, base=None):
    frame = encode_frame(
        np.asarray(values, np.float32),
        kind=FrameKind.MODEL_DELTA,
        mask=mask or replica.mask,
        base=base or replica.digest,
        codec=FLOAT32,
    )
    return "model_delta", frame


def without(*dead):
    live = np.ones(12, bool)
    live[list(dead)] = False
    return Mask(layout=LAYOUT, live=live)


@pytest.fixture
def first():
    return Replica.empty(LAYOUT).advanced([keyframe(np.arange(12))], version=3)


def test_nothing_has_the_version_minus_one_and_no_digest():
    empty = Replica.empty(LAYOUT)
    assert (empty.version, empty.digest) == (-1, bytes(16))


def test_a_keyframe_makes_a_model_from_nothing(first):
    assert (first.version, first.weights.tolist()) == (3, list(range(12)))
    assert first.digest == model_digest(np.arange(12, dtype=np.float32), mask=DENSE)


def test_a_seed_makes_the_same_model_everywhere():
    replica = Replica.empty(LAYOUT).advanced([("seed", encode_seeded(LAYOUT, seed=5))], version=0)
    assert replica.weights.tobytes() == seeded_parameters(LAYOUT, seed=5).tobytes()


def test_deltas_add_up_in_order_and_leave_the_one_before_alone(first):
    second = first.advanced([delta(np.full(12, 0.5), first)], version=4)
    third = first.advanced([delta(np.full(12, 0.5), first), delta(np.full(12, 0.25), second)], version=5)
    assert third.weights.tolist() == [number + 0.75 for number in range(12)]
    assert first.weights.tolist() == list(range(12))


def test_a_new_mask_takes_its_weights_away_before_the_delta(first):
    mask = without(1, 5)
    steps = [
        ("mask_delta", encode_mask(mask, previous=DENSE)),
        delta(np.full(10, 1.0), first, mask=mask),
    ]
    second = first.advanced(steps, version=4)
    assert second.weights.tolist() == [0 if n in (1, 5) else n + 1 for n in range(12)]
    assert second.mask == mask
    back = second.advanced([("mask", encode_mask(DENSE)), delta(np.ones(12), second, mask=DENSE)], version=5)
    assert back.weights[[1, 5]].tolist() == [1, 1]


def test_a_delta_on_another_model_is_refused(first):
    other = Replica.empty(LAYOUT).advanced([keyframe(np.ones(12))], version=3)
    with pytest.raises(CodecError, match="base"):
        first.advanced([delta(np.ones(12), other)], version=4)


def test_a_mask_delta_on_another_mask_is_refused(first):
    step = ("mask_delta", encode_mask(without(2), previous=without(1)))
    with pytest.raises(CodecError):
        first.advanced([step], version=4)


@pytest.mark.parametrize("kind", ["plan", "update"])
def test_a_blob_that_is_no_step_is_refused(first, kind):
    with pytest.raises(ReplicaError, match=f"'{kind}'"):
        first.advanced([(kind, b"")], version=4)


@pytest.mark.parametrize("kind", ["seed", "mask", "mask_delta", "keyframe", "model_delta"])
def test_a_damaged_step_is_refused(first, kind):
    with pytest.raises(CodecError):
        first.advanced([(kind, b"HGR garbage" * 9)], version=4)
