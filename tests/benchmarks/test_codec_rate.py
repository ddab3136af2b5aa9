"""Bytes at a ratio: curves of coders whose bytes are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from benchmarks.codec.cases import Case
from benchmarks.codec.codecs import hedgerow_curve
from benchmarks.codec.measures import entropy_bytes, geometric_mean, snr_db
from benchmarks.codec.rate import Curve, Point, interpolate
from benchmarks.codec.tables import APART, Cell, rate_summary, rate_table, row


def _line(log2_step: float) -> Point:
    # 6 dB and a factor of 2 in bytes for each octave.
    return Point(num_bytes=1000 * 2**-log2_step, snr_db=10 - 6 * log2_step, entropy_bytes=500 * 2**-log2_step)


@pytest.mark.parametrize("target", [2.0, 10.0, 11.3, 24.0])
def test_a_curve_that_is_a_line_is_met_everywhere(target: float) -> None:
    point = Curve(coder=_line, low=-9, high=6).at(target)
    assert point is not None
    assert point.num_bytes == pytest.approx(1000 * 2 ** ((target - 10) / 6))
    assert point.entropy_bytes == pytest.approx(point.num_bytes / 2)


def test_steps_are_tried_once_and_only_near_the_target() -> None:
    tried: list[float] = []

    def coder(log2_step: float) -> Point:
        tried.append(log2_step)
        return _line(log2_step)

    curve = Curve(coder=coder, low=-9, high=6)
    curve.at(10)
    count = len(tried)
    curve.at(10.2)
    assert len(tried) == len(set(tried)) <= count + 1
    assert max(tried) - min(tried) < 3


@pytest.mark.parametrize("target", [-60.0, 80.0])
def test_a_ratio_out_of_reach_is_none(target: float) -> None:
    assert Curve(coder=_line, low=-9, high=6).at(target) is None


def test_of_a_ratio_that_wavers_the_cheapest_crossing_counts() -> None:
    ratios = {0: 10.0, -1: 12.0, -2: 9.0, -3: 13.0}

    def coder(log2_step: float) -> Point:
        k = round(log2_step * 6)
        return Point(num_bytes=100 - k, snr_db=ratios.get(k, 5.0 if k > 0 else 14.0 - k))

    point = Curve(coder=coder, low=-3, high=3).at(11)
    assert point is not None
    assert 100 < point.num_bytes < 101  # between steps 0 and -1, not between -2 and -3


def test_interpolation_is_linear_in_log_bytes() -> None:
    middle = interpolate(Point(num_bytes=100, snr_db=3), Point(num_bytes=400, snr_db=5), 4)
    assert middle.num_bytes == pytest.approx(200)


def test_the_codec_s_curve_gives_frames_at_the_ratio(case: Case) -> None:
    curve = hedgerow_curve(case, case.vectors[0], settings={})
    coarse, fine = curve.at(6), curve.at(12)
    assert coarse is not None
    assert fine is not None
    assert 100 < coarse.num_bytes < fine.num_bytes < 4 * case.num_live
    assert fine.entropy_bytes is not None
    assert 0.5 < fine.num_bytes / fine.entropy_bytes < 1.5


def test_measures() -> None:
    assert snr_db(np.array([3, 4], np.float32), np.array([3, 3.5], np.float32)) == pytest.approx(20)
    assert snr_db(np.ones(2, np.float32), np.ones(2, np.float32)) == math.inf
    # Two tensors: one bit for each of four, nothing for four that are alike.
    assert entropy_bytes(np.array([0, 1, 0, 1, 5, 5, 5, 5]), lengths=[4, 4]) == pytest.approx(0.5)
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1)


def _cell(hedgerow: float | None, trellis: float | None, best: float | None) -> Cell:
    return Cell(case="a", snr_db=3, hedgerow=hedgerow, trellis=trellis, plain=trellis, best=best, entropy=100)


def test_the_summary_leaves_out_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    summary = rate_summary([_cell(100, 200, 100), _cell(100, 50, 50), _cell(None, 50, 50)])
    assert summary["bytes_vs_nncodec"] == pytest.approx(1)
    assert summary["bytes_vs_nncodec_worst"] == pytest.approx(2)
    assert summary["bytes_vs_nncodec_best"] == pytest.approx(math.sqrt(2))
    assert "1 of 3 cells" in capsys.readouterr().err


def test_what_would_flatter_the_mean_is_no_part_of_it() -> None:
    cells = [_cell(100, 200, 100), dataclasses.replace(_cell(1, 200, 100), case=APART[0])]
    assert rate_summary(cells)["bytes_vs_nncodec"] == pytest.approx(0.5)


def test_without_the_peer_ratios_are_null(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    cells = rate_table([case], targets_db=(8.0,), settings={}, peer=None)
    assert cells[0].hedgerow is not None
    assert cells[0].ratio is None
    assert rate_summary(cells)["bytes_vs_nncodec"] is None
    assert row(cells[0]) in capsys.readouterr().out
