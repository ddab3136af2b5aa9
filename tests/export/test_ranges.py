"""Histograms of activations: counted exactly, added in any order, coded in few bytes, as good as data."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import ModelError, QuantizationError, Runner, quantize_int8
from hedgerow_export.calibration import calibration_form, count_activations
from hedgerow_export.ranges import BINS, MAX_CODED_BYTES, ActivationRanges, Histogram, merge_ranges

DIGEST = bytes(range(16))
FLOATS = st.lists(st.floats(-(2.0**60), 2.0**60, allow_nan=False, width=32), min_size=1, max_size=40)


def same(left: Histogram, right: Histogram) -> bool:
    return (left.exponent, left.first, left.counts.tolist()) == (
        right.exponent,
        right.first,
        right.counts.tolist(),
    )


def ranges(*values: list[float], rows: int = 3) -> ActivationRanges:
    return ActivationRanges(
        model=DIGEST, rows=rows, histograms=tuple(Histogram.of(np.array(entry)) for entry in values)
    )


def test_values_are_counted_in_the_smallest_bins_that_do() -> None:
    found = Histogram.of(np.array([0.0, 0.5, 0.5, 63.9]))
    assert (found.exponent, found.first, found.counts.sum()) == (-1, 0, 4)
    assert (found.counts[0], found.counts[1], found.counts[-1], len(found.counts)) == (1, 2, 1, 128)
    assert (found.low, found.high) == (0.0, 64.0)
    assert same(Histogram.of(np.array([math.nan, math.inf, 0.0, 0.5, 0.5, 63.9])), found)
    assert (Histogram.of(np.array([])).low, Histogram().high) == (0.0, 0.0)


@settings(deadline=None)
@given(FLOATS)
def test_every_value_lies_in_its_bin(values: list[float]) -> None:
    found = Histogram.of(np.array(values))
    assert 1 <= len(found.counts) <= BINS
    assert found.counts.sum() == len(values)
    assert found.counts[0] > 0
    assert found.counts[-1] > 0
    assert found.low <= min(values) <= max(values) < found.high


@settings(deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_sums_are_those_of_all_values_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    one, two, three = (Histogram.of(np.array(values)) for values in (a, b, c))
    together = Histogram.of(np.array(a + b + c))
    for total in ((one + two) + three, one + (two + three), three + one + two):
        assert same(total, (one + two) + three)
    total = one + two + three
    assert total.counts.sum() == together.counts.sum()
    assert total.exponent >= together.exponent
    assert same(total, together.coarser(total.exponent))
    assert same(one + Histogram(), one)


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=6))
def test_what_is_coded_comes_back_but_for_half_an_octave(values: list[list[float]]) -> None:
    made = ranges(*values)
    found = ActivationRanges.decode(made.encode())
    assert (found.model, found.rows) == (DIGEST, 3)
    for before, after in zip(made.histograms, found.histograms, strict=True):
        assert (before.exponent, before.first, len(before.counts)) == (
            after.exponent,
            after.first,
            len(after.counts),
        )
        assert ((before.counts > 0) == (after.counts > 0)).all()
        held = before.counts > 0
        assert np.abs(np.log2(after.counts[held] / before.counts[held])).max(initial=0) <= 0.5
    assert found.encode() == made.encode()


def test_a_code_is_small_and_gets_smaller_where_it_must() -> None:
    rng = np.random.default_rng(0)
    made = ranges(*(np.maximum(rng.standard_normal(20_000), 0).tolist() for _ in range(60)))
    code = made.encode()
    assert len(code) < 60 * 60
    small = made.encode(most_bytes=1500)
    assert len(small) <= 1500
    found = ActivationRanges.decode(small)
    assert max(len(entry.counts) for entry in found.histograms) <= 64
    # Wider bins: the edges move outwards by less than one of them.
    for before, after in zip(made.histograms, found.histograms, strict=True):
        assert 0 <= after.high - before.high < 2.0**after.exponent
    with pytest.raises(ModelError, match="do not fit into 100 bytes"):
        made.encode(most_bytes=100)


def test_garbage_is_refused() -> None:
    code = ranges([0.5, 1.0, 7.0], [-3.0, 2.0]).encode()
    for length in range(len(code)):
        with pytest.raises(ModelError):
            ActivationRanges.decode(code[:length])
    for place in range(len(code)):
        for flip in (1, 0x40, 0xFF):
            damaged = bytearray(code)
            damaged[place] ^= flip
            try:
                found = ActivationRanges.decode(bytes(damaged))
            except ModelError:
                continue
            assert 4 <= place < 24  # the digest and the rows are anybody's
            assert len(found.histograms) == 2
    with pytest.raises(ModelError):
        ActivationRanges.decode(code + b"\x00")
    with pytest.raises(ModelError, match="no ranges"):
        ActivationRanges.decode(b"HGR1" + bytes(MAX_CODED_BYTES))


@pytest.mark.parametrize(
    ("tensors", "body"),
    [
        (0, b""),
        (5000, b""),
        (1, struct.pack(">biB", 0, 0, 2) + b"\x01"),
        (1, struct.pack(">biB", 0, 0, 200) + b"\x01" * 200),
        (1, struct.pack(">biB", 120, 0, 1) + b"\x01"),
        (1, struct.pack(">biB", 0, 0, 1) + b"\xff"),
        (1, struct.pack(">biB", 0, 0, 2) + b"\x7f\x7f"),
        (1, struct.pack(">biB", 0, 0, 2) + b"\x01\xff"),
        (1, bytes(50_000_000)),  # a bomb
    ],
)
def test_impossible_numbers_are_refused(tensors: int, body: bytes) -> None:
    data = struct.pack(">4s16sIH", b"HGR1", DIGEST, 1, tensors) + zlib.compress(body, 9)
    with pytest.raises(ModelError):
        ActivationRanges.decode(data)


def test_ranges_of_different_models_are_not_added() -> None:
    one = ranges([1.0])
    with pytest.raises(ModelError, match="different models"):
        merge_ranges([one, ActivationRanges(model=bytes(16), rows=1, histograms=one.histograms)])
    with pytest.raises(ModelError, match="no ranges"):
        merge_ranges([])
    assert merge_ranges([one, one]).rows == 6


def test_clipping_leaves_out_what_is_rare_and_far() -> None:
    rng = np.random.default_rng(1)
    plain = Histogram.of(rng.standard_normal(100_000))
    low, high = plain.clipped()
    assert -4.6 < low < -2.5
    assert 2.5 < high < 4.6
    far = Histogram.of(np.array([12.0]))
    for _ in range(10):
        far = far + plain
    assert far.high >= 12
    assert far.clipped()[1] < 9
    ones = Histogram.of(np.ones(50))
    assert ones.clipped()[0] == 0.0
    assert 1.0 <= ones.clipped()[1] <= 1.001
    assert Histogram().clipped() == (0.0, 0.0)


def network(seed: int = 0) -> bytes:
    """Return a small convolutional network whose head is fitted to its task."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w1": draw(8, 1, 3, 3),
        "b1": draw(8),
        "w2": draw(16, 8, 3, 3),
        "b2": draw(16),
        "w3": draw(16, 5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def test_histograms_of_five_devices_quantise_as_well_as_the_gateways_data() -> None:
    model = network()
    form = calibration_form(model)
    rng = np.random.default_rng(2)
    # Every device sees another brightness: none of them alone has the range.
    devices = [rng.random((60, 1, 12, 12)).astype(np.float32) * scale for scale in (0.3, 0.6, 1.0, 1.4, 2.0)]
    codes = [count_activations(form, rows).encode() for rows in devices]
    assert max(map(len, codes)) < 800
    merged = merge_ranges([ActivationRanges.decode(code) for code in codes])
    assert merged.rows == 300
    rows = np.concatenate(devices)
    order = rng.permutation(len(rows))
    wanted = Runner(model)(rows).astype(np.float64)
    size = float(np.sqrt(np.mean(wanted**2)))

    def error(**changes: object) -> float:
        made = quantize_int8(model, rows[order], **changes)  # type: ignore[arg-type]
        assert made.layers == 3
        return float(np.sqrt(np.mean((Runner(made.model)(rows) - wanted) ** 2))) / size

    by_data, by_devices = error(), error(ranges=merged)
    assert by_data < 0.02
    assert by_devices < 1.5 * by_data
    # One device that sees little light does not do for all.
    assert error(ranges=ActivationRanges.decode(codes[0])) > 5 * by_devices


def test_the_form_for_calibration_computes_what_the_model_computes_and_shows_its_inside() -> None:
    model = network()
    form = calibration_form(model)
    rows = np.random.default_rng(0).random((20, 1, 12, 12)).astype(np.float32)
    assert np.abs(Runner(form)(rows) - Runner(model)(rows)).max() < 1e-6
    found = count_activations(form, rows)
    values = {entry.counts.sum() for entry in found.histograms}
    assert {20 * 5, 20 * 144, 20 * 8 * 144, 20 * 16 * 25} <= values  # output, input, and two layers
    assert calibration_form(model) == form


def test_ranges_of_another_model_and_models_without_layers_are_refused() -> None:
    rows = np.random.default_rng(0).random((20, 1, 12, 12)).astype(np.float32)
    other = count_activations(calibration_form(network(1)), rows)
    with pytest.raises(ModelError, match="of another model or round"):
        quantize_int8(network(), rows, ranges=other)
    with pytest.raises(ModelError, match="not in its form for calibration"):
        count_activations(network(), rows)
    with pytest.raises(ModelError, match="fails on a batch"):
        count_activations(calibration_form(network()), np.zeros((2, 3), np.float32))
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(QuantizationError, match="no convolution or linear layer"):
        calibration_form(plain.SerializeToString())


def test_of_two_ways_to_clip_the_better_one_on_the_gateways_inputs_is_taken() -> None:
    model = network()
    form = calibration_form(model)
    rng = np.random.default_rng(3)
    rows = rng.random((200, 1, 12, 12)).astype(np.float32)
    wanted = Runner(model)(rows).astype(np.float64)

    def errors(counted: ActivationRanges) -> dict[str | None, float]:
        found = {}
        for clipping in ("none", "error", None):
            made = quantize_int8(model, rows, ranges=counted, clipping=clipping)
            found[clipping] = float(np.sqrt(np.mean((Runner(made.model)(rows) - wanted) ** 2)))
        return found

    plain = count_activations(form, rows)
    measured = errors(plain)
    assert measured[None] == min(measured.values())
    # One device has a sensor that shouts once.
    loud = rows[:1] * 40
    measured = errors(plain + count_activations(form, loud))
    assert measured[None] == measured["error"] < measured["none"]
