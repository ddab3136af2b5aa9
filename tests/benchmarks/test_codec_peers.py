"""The codes written for the benchmark decode to what was coded, and take what they are known to take."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.codec.bits import read_gamma, read_rice, rice_parameter, write_gamma, write_rice
from benchmarks.codec.cases import Case
from benchmarks.codec.fixed import HEDGEROW, fixed_means, fixed_table, make_coder
from benchmarks.codec.measures import snr_db
from benchmarks.codec.nnc import short_name
from benchmarks.codec.peers import WITH_KNOB, Coder, entropy_of
from hypothesis import given
from hypothesis import strategies as st


@given(values=st.lists(st.integers(0, 5000), min_size=1), low_bits=st.integers(0, 9))
def test_rice_round_trip(values: list[int], low_bits: int) -> None:
    bits = write_rice(np.array(values), low_bits=low_bits)
    assert bits.size == sum((value >> low_bits) + 1 + low_bits for value in values)
    read, end = read_rice(np.concatenate([bits, np.ones(3, np.uint8)]), count=len(values), low_bits=low_bits)
    assert read.tolist() == values
    assert end == bits.size


@given(values=st.lists(st.integers(1, 2**40), min_size=1))
def test_gamma_round_trip(values: list[int]) -> None:
    bits = write_gamma(np.array(values))
    assert bits.size == sum(2 * (value.bit_length() - 1) + 1 for value in values)
    read, end = read_gamma(bits, count=len(values))
    assert read.tolist() == values
    assert end == bits.size


def test_rice_parameters_fit_the_mean_gap() -> None:
    # The mean gap is 400 or 100; a quotient in 256ths or 64ths is 0, 1 or 2 for most.
    assert rice_parameter(1 / 400) == 8
    assert rice_parameter(0.01) == 6


def _made(name: str, log2_step: float) -> Coder:
    try:
        return WITH_KNOB[name][0](log2_step)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("name", WITH_KNOB)
def test_peers_decode_what_they_coded(name: str, case: Case) -> None:
    vector = case.vectors[0]
    coder = _made(name, -1.0)
    blob = coder.encode(vector, case.mask)
    decoded = coder.decode(blob, case.mask)
    assert decoded.shape == vector.shape
    assert decoded.dtype == np.float32
    assert snr_db(vector, decoded) > 1
    entropy = entropy_of(coder, blob, case.mask)
    assert entropy is not None
    assert entropy < 2 * len(blob)


def test_stc_sends_signs_of_the_largest(case: Case) -> None:
    vector = case.vectors[0]
    coder = _made("STC Golomb", 0.0)
    decoded = coder.decode(coder.encode(vector, case.mask), case.mask)
    sent = np.flatnonzero(decoded)
    assert sent.size == round(vector.size / 64)
    assert np.abs(vector[sent]).min() >= np.abs(np.delete(vector, sent)).max()
    assert np.array_equal(np.sign(decoded[sent]), np.sign(vector[sent]))
    assert np.abs(decoded[sent]) == pytest.approx(np.abs(vector[sent]).mean())


def test_qsgd_rounds_to_a_neighbouring_level(case: Case) -> None:
    vector = case.vectors[0]
    coder = _made("QSGD Elias", -2.0)
    step = np.sqrt(np.mean(np.square(vector, dtype=np.float64))) / 4
    decoded = coder.decode(coder.encode(vector, case.mask), case.mask)
    assert np.abs(decoded - vector).max() < step * 1.001
    assert np.abs(np.rint(decoded / step) - decoded / step).max() < 1e-4


@pytest.mark.parametrize("name", HEDGEROW)
def test_hedgerow_s_codecs_are_the_product_s(name: str, case: Case) -> None:
    vector = case.vectors[0]
    coder = make_coder(name, vector)
    decoded = coder.decode(coder.encode(vector, case.mask), case.mask)
    assert snr_db(vector, decoded) > 0


def test_the_table_says_why_a_peer_is_missing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: float = 0.0) -> Coder:
        raise ImportError("No module named 'zstandard'")

    monkeypatch.setitem(fixed_table.__globals__["PEERS"], "zstd int8", missing)
    rows, skipped = fixed_table([case])
    assert "zstandard" in skipped["zstd int8"]
    means = {str(mean["codec"]): mean for mean in fixed_means(rows)}
    assert set(HEDGEROW) <= set(means)
    assert means["float32"]["bits_per_parameter"] == pytest.approx(32, abs=0.1)
    assert "zstd int8" not in means


def test_short_names_are_unique() -> None:
    names = [short_name(number) for number in range(300)]
    assert len(set(names)) == 300
    assert max(len(name) for name in names) == 2
