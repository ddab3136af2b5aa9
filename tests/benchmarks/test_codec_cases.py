"""Cases: files, masks, small draws, plots and the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.codec.cases import Case, chosen, load_case, save_case, split_live
from benchmarks.codec.markdown import BEGIN, END
from benchmarks.codec.markdown import main as write_numbers
from benchmarks.codec.memory import can_measure, peak_bytes
from benchmarks.codec.plot import plot_rates, rate_lines
from benchmarks.codec.record import magnitude_mask
from benchmarks.codec.run import main
from benchmarks.codec.speed import sparse_codec
from benchmarks.codec.tiny import tiny_draws, tiny_summary

from hedgerow_codecs import Layout


def _pruned(case: Case) -> Case:
    mask = magnitude_mask(case.vectors[0], layout=case.mask.layout, kept=0.2)
    return dataclasses.replace(case, mask=mask, vectors=(mask.gather(case.vectors[0]),))


def test_a_case_comes_back_from_its_file(case: Case, tmp_path: Path) -> None:
    pruned = _pruned(case)
    save_case(pruned, tmp_path / "case.npz")
    back = load_case(tmp_path / "case.npz")
    assert (back.name, back.source, back.mask) == (pruned.name, pruned.source, pruned.mask)
    assert back.vectors[0].tobytes() == pruned.vectors[0].tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["case.npz"]


def test_a_mask_by_magnitude_keeps_the_largest_and_what_is_not_prunable(case: Case) -> None:
    flat = case.vectors[0]
    mask = magnitude_mask(flat, layout=case.mask.layout, kept=0.2)
    assert mask.lengths == (1600, 80)
    weights, live = np.abs(flat[:8000]), mask.live[:8000]
    assert weights[live].min() >= weights[~live].max()


def test_live_values_are_cut_into_tensors(case: Case) -> None:
    whole = split_live(case.vectors[0], mask=case.mask)
    assert {name: part.shape for name, part in whole.items()} == {"fc.weight": (80, 100), "fc.bias": (80,)}
    pruned = _pruned(case)
    parts = split_live(pruned.vectors[0], mask=pruned.mask)
    assert parts["fc.weight"].shape == (1600,)
    assert np.concatenate([part.reshape(-1) for part in parts.values()]).tobytes() == (
        pruned.vectors[0].tobytes()
    )


def test_cases_are_chosen_by_parts_of_their_names(case: Case) -> None:
    other = dataclasses.replace(case, name="drawn/masked")
    assert chosen([case, other], ["/masked"]) == [other]
    with pytest.raises(ValueError, match=r"no case is called cnn; there are drawn/raw"):
        chosen([case], ["cnn"])


def test_tiny_draws_have_two_percent_of_codes(case: Case) -> None:
    draws = tiny_draws([case])
    assert {draw.form for draw in draws} == {"block", "scattered"}
    for draw in draws:
        assert abs(draw.live - 5000) <= 500
        assert 0.018 <= draw.nonzero / draw.live <= 0.022
        # The entropy of 2 % with signs is 0.16 bits an entry; magnitudes come on top.
        assert 0.15 * draw.live / 8 < draw.entropy < 0.3 * draw.live / 8
        assert 0.5 < draw.ratio < 2
    summary = tiny_summary(draws)
    assert summary["draws"] == len(draws)


def test_one_percent_is_met(case: Case) -> None:
    _, share = sparse_codec(case.vectors[0], case)
    assert 0.007 < share < 0.014


@pytest.mark.skipif(not can_measure(), reason="needs Linux's /proc/self/clear_refs")
def test_memory_of_float32_is_at_least_its_copy(layout: Layout, tmp_path: Path) -> None:
    large = Layout(tensors=(dataclasses.replace(layout.tensors[0], shape=(2000, 1000)),))
    values = np.random.default_rng(7).normal(size=2_000_000).astype(np.float32)
    full = magnitude_mask(values, layout=large, kept=1.0)
    save_case(Case(name="large/raw", mask=full, vectors=(values,), source="a seed"), tmp_path / "large.npz")
    grown = peak_bytes("float32", tmp_path / "large.npz") / values.nbytes
    assert 0.9 < grown < 8


def _report() -> dict[str, object]:
    cells = [
        {"case": name, "snr_db": ratio, "hedgerow": 100 * ratio, "trellis": None, "plain": 200 * ratio}
        for name in ("a/raw", "b/raw")
        for ratio in (3.0, 8.0)
    ]
    peers = [
        {"case": "a/raw", "codec": "STC Golomb", "snr_db": 3.0, "num_bytes": 900},
        {"case": "a/raw", "codec": "STC Golomb", "snr_db": 8.0, "num_bytes": None},
        {"case": "a/raw", "codec": "zlib int8", "snr_db": 3.0, "num_bytes": 900},
    ]
    return {"cells": cells, "peers": peers, "parameters": {"a/raw": 800, "b/raw": 1600}}


def test_lines_of_the_plot_are_bits_for_each_weight(tmp_path: Path) -> None:
    lines = rate_lines(_report())
    assert lines["a/raw"]["hedgerow"] == [(3.0, 3.0), (8.0, 8.0)]
    assert lines["a/raw"]["STC Golomb"] == [(3.0, 9.0)]
    assert set(lines["b/raw"]) == {"hedgerow", "nncodec"}
    plot_rates(_report(), tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_bad_arguments_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit):
        main(["--rate-only"])
    assert "is not a folder" in capsys.readouterr().err
    monkeypatch.delenv("HEDGEROW_DATA")
    with pytest.raises(SystemExit):
        main(["--rate-only", "--set", "tradeoff=much"])
    assert "NAME=NUMBER" in capsys.readouterr().err


def test_the_command_trains_measures_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("HEDGEROW_DATA", raising=False)
    report = tmp_path / "report.json"
    arguments = ["--rate-only", "--cases", "mlp/raw", "--snr", "8", "--cache", str(tmp_path)]
    assert main([*arguments, "--json", str(report)]) == 0
    first = json.loads(report.read_text())
    assert first["sources"] == {"mlp/raw": "scikit-learn's digits"}
    assert first["cells"][0]["hedgerow"] > 100
    # From the cache, nothing is trained; the same bytes come out.
    assert main([*arguments, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["cells"] == first["cells"]
    # What the file already holds is not measured again: this mark would be gone.
    first["cells"][0]["hedgerow"] = 7.0
    report.write_text(json.dumps(first))
    assert main([*arguments, "--json", str(report), "--resume"]) == 0
    assert [cell["hedgerow"] for cell in json.loads(report.read_text())["cells"]] == [7.0]
    arguments[arguments.index("8")] = "9"
    assert main([*arguments, "--json", str(report), "--resume"]) == 2
    assert "measured with other snr_db: remove it" in capsys.readouterr().err


def _full_report() -> dict[str, object]:
    report = _report()
    cell = {"ratio": 0.5, "ratio_best": None, "ratio_entropy": 0.91, "best": None, "codec": "deadzone"}
    mean = {"codec": "deadzone", "num_bytes": 1234, "bits_per_parameter": 0.5, "ratio_to_entropy": None}
    cells = report["cells"]
    assert isinstance(cells, list)
    return {
        **report,
        "cells": [{**each, **cell} for each in cells],
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux"},
        "versions": {"numpy": "2.0", "nncodec": None},
        "summary": {"bytes_vs_nncodec": 0.5, "encode_vs_nncodec": None},
        "fixed_means": [{**mean, "snr_db": 6.2, "encode_mb_s": 30, "decode_mb_s": 31}],
        "skipped": {"nncodec": "cannot be imported"},
        "memory": {"deadzone": {"encode": 1.5, "decode": 1.25}},
        "speed": None,
        "tiny": {form: {"draws": 3, "mean": 1.1, "max": 1.2} for form in ("all", "block", "scattered")},
    }


def test_numbers_are_written_between_the_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, document = tmp_path / "report.json", tmp_path / "codec.md"
    report.write_text(json.dumps(_full_report()))
    document.write_text(f"before\n{BEGIN}\nstale numbers\n{END}\nafter\n")
    assert write_numbers([str(report), str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "stale numbers" not in text
    assert "| a/raw | 3 | 300 | - | 600 | - | 0.500 | - | 0.910 | deadzone |" in text
    assert "| deadzone | 1,234 | 0.500 | - | 6.2 | 30 | 31 | 1.50 | 1.25 |" in text
    assert "Skipped: nncodec, cannot be imported." in text
    document.write_text("no marks")
    assert write_numbers([str(report), str(document)]) == 2
    assert "has no lines" in capsys.readouterr().err
