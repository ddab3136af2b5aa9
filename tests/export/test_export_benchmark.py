"""The export benchmark's pure parts, and one of its models from end to end."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.export.data import load_images  # noqa: E402  # needs the path above
from benchmarks.export.models import CASES  # noqa: E402
from benchmarks.export.run import main, measured, summary  # noqa: E402
from benchmarks.export.tables import BEGIN, END, numbers, write_document  # noqa: E402
from benchmarks.export.training import half_of  # noqa: E402
from benchmarks.export.variants import Row  # noqa: E402

from hedgerow_export import channel_groups  # noqa: E402


def row(name, file_bytes, cpu_ms, accuracy=None):
    return Row(
        name=name,
        file_bytes=file_bytes,
        zip_bytes=1,
        wall_ms=2 * cpu_ms,
        cpu_ms=cpu_ms,
        max_abs_error=None,
        top1_agreement=None,
        accuracy=accuracy,
    )


def test_the_summary_is_computed_from_the_rows():
    rows = [
        row("dense float32", 45_000_000, 6.0),
        row("unstructured 80 %, sparse initialisers", 15_750_000, 6.0),
        row("half the channels", 11_000_000, 1.5, accuracy=0.8),
        row("half the channels, int8", 3_000_000, 0.5, accuracy=0.797),
    ]
    found = summary({"resnet18": rows}, {"resnet18": 1e-7, "gru": 3e-7})
    assert found == pytest.approx(
        {
            "resnet18_speedup": 12.0,
            "resnet18_size_ratio": 15.0,
            "resnet18_top1_drop_points": 0.3,
            "unstructured_file_ratio": 0.35,
            "max_abs_error": 3e-7,
        }
    )
    assert summary({}, {})["resnet18_speedup"] is None


def test_the_stronger_half_of_the_channels_is_kept(build):
    plain = build("plain")
    weights = plain.layout.split(plain.flat())
    masks = half_of(plain.template)
    norms = np.abs(weights["fc1.weight"]).sum(axis=1)
    assert masks["fc1.weight"].sum() == 8
    assert norms[masks["fc1.weight"]].min() >= norms[~masks["fc1.weight"]].max()
    assert set(masks) == {group.id for group in channel_groups(plain.template)}


def test_without_packs_the_images_are_scikit_learns(tmp_path):
    images = load_images(tmp_path)
    assert images.inputs.shape[1:] == (1, 28, 28)
    assert images.source.startswith("scikit-learn")
    assert 0 <= images.inputs.min() < images.inputs.max() <= 1
    assert len(images.test_inputs) == len(images.test_classes) == 500


def test_models_have_the_sizes_that_are_told():
    counts = {
        name: sum(tensor.numel() for tensor in case.build().parameters()) for name, case in CASES.items()
    }
    assert counts["small-cnn"] == 421_642
    assert 11.1e6 < counts["resnet18"] < 11.3e6
    assert counts["mobilenet"] < 500_000


def test_a_document_without_marks_is_left_alone(tmp_path, capsys):
    path = tmp_path / "d.md"
    path.write_text("words\n")
    assert write_document(path, "numbers") == 2
    assert path.read_text() == "words\n"
    assert "has no lines" in capsys.readouterr().err


def test_one_model_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.export.variants._SECONDS", 0.02)
    report = measured(["small-cnn"], load_images(None), cache=tmp_path, quick=True)
    rows = {entry["name"]: entry for entry in report["models"]["small-cnn"]}
    dense = rows["dense float32"]["file_bytes"]
    assert rows["half the channels"]["file_bytes"] < dense / 3
    assert rows["half the channels"]["max_abs_error"] < 1e-4
    assert rows["int8"]["file_bytes"] < dense / 3.5
    assert rows["half the channels, int8"]["file_bytes"] < dense / 10
    assert rows["unstructured 80 %"]["file_bytes"] == dense
    assert rows["unstructured 80 %, sparse initialisers"]["file_bytes"] < dense / 2
    assert report["summary"]["max_abs_error"] < 1e-4
    assert all(entry["cpu_ms"] > 0 for entry in rows.values())
    path = tmp_path / "d.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert write_document(path, numbers(report)) == 0
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| half the channels, int8 |" in text
    assert "half the channels, int8" in capsys.readouterr().out


def test_a_document_needs_a_report():
    with pytest.raises(SystemExit):
        main(["--document", "x.md"])
