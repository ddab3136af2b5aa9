"""Frozen tensors: which a pattern means, and frames without them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    NO_BASE,
    FrameKind,
    Frozen,
    Layout,
    LayoutError,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    encode_frame_with_decoded,
)


def spec(name: str, *shape: int, kind: str = "linear", prunable: bool = True) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, kind=kind, prunable=prunable)


NET = Layout(
    tensors=(
        spec("body.0.weight", 6, 4, kind="conv"),
        spec("body.0.bias", 6, kind="bias", prunable=False),
        spec("body.1.weight", 6, kind="norm", prunable=False),
        spec("body.1.bias", 6, kind="norm", prunable=False),
        spec("body.1.running_mean", 6, kind="buffer", prunable=False),
        spec("body.1.running_var", 6, kind="buffer", prunable=False),
        spec("head.weight", 3, 6),
    )
)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], []),
        (["body.0.weight"], ["body.0.weight"]),
        (["body.0"], ["body.0.weight", "body.0.bias"]),
        (["*.bias"], ["body.0.bias", "body.1.bias"]),
        # A norm whose scale and shift stay keeps its statistics, too; one of them alone is not enough.
        (["body.1.weight", "body.1.bias"], [n.name for n in NET.tensors[2:6]]),
        (["body.1.weight"], ["body.1.weight"]),
        (["body.1.running_*"], ["body.1.running_mean", "body.1.running_var"]),
        (["body", "body.0"], [n.name for n in NET.tensors[:6]]),
    ],
)
def test_a_pattern_means_tensors_and_whole_layers(patterns: list[str], names: list[str]) -> None:
    frozen = Frozen.matching(NET, patterns)
    assert list(frozen.names) == names
    assert frozen.num_parameters == sum(t.size for t in NET.tensors if t.name in names)


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["boddy"], "'boddy' means no tensor of the model; did you mean 'body'?"),
        (["body", "head"], "all parameters of the model are frozen: there is nothing left to train"),
        (["*"], "nothing left to train"),
        ([""], "a pattern has 1 to 255 bytes of printable text, this is ''"),
        (["a\n"], "a pattern has 1 to 255 bytes"),
        (["a"] * 65, "65 patterns are too many, 64 may say what is frozen"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(patterns: list[str], sentence: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Frozen.matching(NET, patterns)
    assert sentence in str(caught.value)


def test_with_nothing_frozen_a_frame_is_made_under_the_mask_itself() -> None:
    mask, frozen = Mask.dense(NET), Frozen.matching(NET, [])
    assert not frozen
    assert frozen.moving(mask) is mask
    assert np.array_equal(frozen.positions(mask), mask.positions)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_frame_carries_what_moves_and_nothing_else(data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([t.name for t in NET.tensors[:6]]), min_size=1))
    frozen = Frozen.matching(NET, sorted(chosen))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    live = ~NET.prunable() | (rng.random(NET.num_parameters) < 0.5) | frozen.entries
    mask = Mask(layout=NET, live=live)
    codec = codec_from_config({"codec_id": data.draw(st.sampled_from(["float32", "deadzone", "uniform"]))})
    flat = rng.standard_normal(NET.num_parameters).astype(np.float32)
    positions = frozen.positions(mask)
    assert not frozen.entries[positions].any()
    assert np.array_equal(np.flatnonzero(mask.live & ~frozen.entries), positions)
    frame, sent = encode_frame_with_decoded(
        flat[positions], kind=FrameKind.UPDATE, mask=frozen.moving(mask), base=NO_BASE, codec=codec
    )
    found = decode_frame(frame, kind=FrameKind.UPDATE, mask=frozen.moving(mask), base=NO_BASE)
    widened = frozen.widened(found, mask=mask)
    wanted = np.zeros(NET.num_parameters, np.float32)
    wanted[positions] = sent.values()
    assert mask.scatter(widened.values()).tobytes() == wanted.tobytes()
    total = np.zeros(mask.num_live, np.float64)
    widened.add_to(total, weight=3)
    np.testing.assert_array_equal(total, 3.0 * mask.gather(wanted).astype(np.float64))
