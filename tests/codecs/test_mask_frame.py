from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    KindError,
    Layout,
    Mask,
    MaskError,
    MismatchError,
    PayloadError,
    TensorSpec,
    decode_mask,
    encode_frame,
    encode_mask,
)
from hedgerow_codecs.frame import NO_BASE, FrameKind
from hedgerow_codecs.registry import codec_from_config


def random_mask(layout: Layout, density: float, seed: int) -> Mask:
    live = np.random.default_rng(seed).random(layout.num_parameters) < density
    return Mask(layout=layout, live=live | ~layout.prunable())


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 700),
    densities=st.tuples(*[st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99, 1.0])] * 2),
    seed=st.integers(0, 1000),
)
def test_masks_round_trip_whole_and_as_a_difference(size: int, densities: tuple, seed: int) -> None:
    layout = Layout(
        tensors=(
            TensorSpec(name="w", shape=(size,), kind="linear", prunable=True),
            TensorSpec(name="b", shape=(3,), kind="bias", prunable=False),
        )
    )
    before, after = (random_mask(layout, density, seed + i) for i, density in enumerate(densities))
    assert decode_mask(encode_mask(after), layout=layout) == after
    assert decode_mask(encode_mask(after, previous=before), layout=layout, previous=before) == after
    assert len(encode_mask(after)) <= 53 + 30 + size // 8 * 1.02


def test_a_layout_without_prunable_tensors_has_one_mask() -> None:
    mask = Mask.dense(Layout(tensors=(TensorSpec(name="b", shape=(3,), kind="bias", prunable=False),)))
    assert decode_mask(encode_mask(mask), layout=mask.layout) == mask


def test_a_few_swaps_cost_a_few_bytes() -> None:
    layout = Layout(tensors=(TensorSpec(name="w", shape=(100, 1000), kind="linear", prunable=True),))
    before = random_mask(layout, 0.2, 0)
    live = before.live.copy()
    rng = np.random.default_rng(1)
    live[rng.choice(np.flatnonzero(live), 100, replace=False)] = False
    live[rng.choice(np.flatnonzero(~live), 100, replace=False)] = True
    after = Mask(layout=layout, live=live)
    entropy_bytes = 200 * (np.log2(100_000 / 200) + 1.44) / 8
    assert len(encode_mask(after, previous=before)) < 1.25 * entropy_bytes + 53
    assert len(encode_mask(after)) < 53 + 1.02 * 100_000 * 0.722 / 8


def test_a_difference_needs_the_mask_before_it(mask: Mask) -> None:
    before = Mask.dense(mask.layout)
    frame = encode_mask(mask, previous=before)
    with pytest.raises(MismatchError):
        decode_mask(frame, layout=mask.layout)
    with pytest.raises(MismatchError):
        decode_mask(frame, layout=mask.layout, previous=mask)
    with pytest.raises(MismatchError):
        decode_mask(encode_mask(mask), layout=Layout(tensors=mask.layout.tensors[:1]))
    with pytest.raises(MaskError, match="own layout"):
        encode_mask(mask, previous=Mask.dense(Layout(tensors=mask.layout.tensors[:1])))


def test_a_frame_that_is_no_mask_is_refused(values, mask: Mask) -> None:
    codec = codec_from_config({"codec_id": "float32"})
    frame = encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec)
    with pytest.raises(KindError, match="got a frame of kind UPDATE"):
        decode_mask(frame, layout=mask.layout)


def test_a_mask_that_is_not_the_one_named_is_refused(mask: Mask) -> None:
    import zlib

    frame, other = encode_mask(mask), encode_mask(Mask.dense(mask.layout))
    body = frame[:53] + other[53:-4]
    with pytest.raises(PayloadError, match="but names"):
        decode_mask(body + zlib.crc32(body).to_bytes(4, "little"), layout=mask.layout)
