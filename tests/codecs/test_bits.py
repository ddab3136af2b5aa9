"""Codec ``bits`` and the weights that stay as they were drawn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import (
    CodecError,
    Layout,
    LayoutError,
    Mask,
    TensorSpec,
    UnencodableError,
    codec_from_config,
    sampled_entries,
    seeded_parameters,
    signed_constants,
)

CODEC = codec_from_config({"codec_id": "bits"})


def dense(*shape: int) -> Mask:
    return Mask.dense(Layout(tensors=(TensorSpec(name="w", shape=shape, kind="linear", prunable=True),)))


@given(bits=st.lists(st.booleans(), min_size=1, max_size=300))
def test_bits_come_back(bits: list[bool]) -> None:
    mask, values = dense(len(bits)), np.array(bits, np.float32)
    payload, decoded = CODEC.encode_with_decoded(values, mask=mask)
    for found in (decoded, CODEC.decode(payload, mask=mask)):
        np.testing.assert_array_equal(found.values(), values)
        assert found.is_integer
    assert len(payload) <= 1 + math.ceil(len(bits) / 8)


@pytest.mark.parametrize(
    ("share", "most"), [(0.5, 1.001), (0.1, 0.49), (0.9, 0.5), (0.01, 0.09), (0.99, 0.1)]
)
def test_a_bit_or_less_for_each(share: float, most: float) -> None:
    mask = dense(200, 200)
    values = (np.random.default_rng(0).random(40_000) < share).astype(np.float32)
    assert 8 * len(CODEC.encode(values, mask=mask)) / 40_000 <= most


def test_the_bytes_of_a_few() -> None:
    values = np.array([1, 0, 1, 1, 0, 0, 0, 0, 1, 0], np.float32)
    assert CODEC.encode(values, mask=dense(10)) == bytes([0, 0b00001101, 0b00000001])


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0])
def test_other_values_are_refused(value: float) -> None:
    with pytest.raises(UnencodableError, match="takes 0 and 1"):
        CODEC.encode(np.array([1, value], np.float32), mask=dense(2))


def test_what_was_not_written_is_refused() -> None:
    mask = dense(50, 30)
    rng = np.random.default_rng(1)
    for share in (0.5, 0.02, 0.98):
        payload = CODEC.encode((rng.random(1500) < share).astype(np.float32), mask=mask)
        for end in range(len(payload)):
            with pytest.raises(CodecError):
                CODEC.decode(payload[:end], mask=mask)
        with pytest.raises(CodecError):
            CODEC.decode(payload + b"\0", mask=mask)
        for place in range(len(payload)):
            torn = bytearray(payload)
            torn[place] ^= 0x55
            try:
                CODEC.decode(bytes(torn), mask=mask)
            except CodecError:
                continue
    with pytest.raises(CodecError, match="ones behind the last bit"):
        CODEC.decode(b"\0\xff\xff", mask=dense(10))


LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(2, 4), kind="linear", prunable=True),
        TensorSpec(name="a.bias", shape=(2,), kind="bias", prunable=False),
        TensorSpec(name="n.weight", shape=(2,), kind="norm", prunable=False),
        TensorSpec(name="n.bias", shape=(2,), kind="norm", prunable=False),
    )
)


def test_constants_have_the_signs_of_the_seed() -> None:
    flat = signed_constants(LAYOUT, seed=3)
    np.testing.assert_allclose(np.abs(flat[:10]), math.e / 2, rtol=1e-6)
    np.testing.assert_array_equal(flat[:10] < 0, seeded_parameters(LAYOUT, seed=3)[:10] < 0)
    assert flat[10:].tolist() == [1, 1, 0, 0]
    assert 0 < np.count_nonzero(flat[:10] < 0) < 10
    assert sampled_entries(LAYOUT).tolist() == [True] * 10 + [False] * 4


def test_running_statistics_cannot_be_sampled() -> None:
    spec = TensorSpec(name="n.running_mean", shape=(2,), kind="buffer", prunable=False)
    with pytest.raises(LayoutError, match="use group or layer norms without running statistics"):
        signed_constants(Layout(tensors=(*LAYOUT.tensors, spec)), seed=3)
