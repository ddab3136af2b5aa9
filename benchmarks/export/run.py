"""The export benchmark's command line, its report and its document.

HEDGEROW_DATA=... python -m benchmarks.export --json export.json
python -m benchmarks.export --document docs/benchmarks/export.md --from export.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.export.data import Images, load_images
from benchmarks.export.models import CASES, Case
from benchmarks.export.tables import numbers, text_table, write_document
from benchmarks.export.training import layout_of, trained_resnet
from benchmarks.export.variants import Row, Variant, measure, variants
from numpy.typing import NDArray

from hedgerow_export import evaluate, make_template

_ROWS = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="hardly any training; the numbers mean little")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "hedgerow" / "benchmarks-export"
    )
    parser.add_argument("--resume", action="store_true", help="keep the models that --json FILE tells of")
    parser.add_argument("--document", type=Path, help="write a report's tables into this document, and end")
    parser.add_argument("--from", dest="report", type=Path, help="the report for --document")
    options = parser.parse_args(arguments)
    if options.resume and options.json is None:
        parser.error("--resume needs --json FILE")
    if options.document is not None:
        if options.report is None:
            parser.error("--document needs --from REPORT")
        return write_document(options.document, numbers(json.loads(options.report.read_text())))
    folder = os.environ.get("HEDGEROW_DATA")
    torch.set_num_threads(1)
    images = load_images(Path(folder) if folder else None)
    known = json.loads(options.json.read_text()) if options.resume and options.json.is_file() else None
    report = measured(options.cases, images, cache=options.cache, quick=options.quick, known=known)
    print(json.dumps(report["summary"], indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measured(
    cases: Sequence[str], images: Images, *, cache: Path, quick: bool, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Measure all forms of the given models but the known ones; return the report as JSON values."""
    tables = {
        name: [Row(**row) for row in rows] for name, rows in (known or {"models": {}})["models"].items()
    }
    errors: dict[str, float] = dict(known["shrink_errors"]) if known else {}
    for name in (name for name in cases if name not in tables):
        case = CASES[name]
        trained = name == "resnet18"
        inputs = _inputs(case, images)
        if trained:
            made = trained_resnet(images, cache=cache, quick=quick)
            forms, error = variants(made.dense, inputs, half=made.half)
        else:
            forms, error = variants(_untrained(case, inputs), inputs)
        errors[name] = error
        rows = measure(forms, inputs[:_ROWS])
        scores = half_scores(forms, images) if trained else {}
        tables[name] = [replace(row, accuracy=scores.get(row.name)) for row in rows]
        print(f"{case.title}\n{text_table(tables[name])}\n", flush=True)
    tables = {name: tables[name] for name in CASES if name in tables}
    return {
        "summary": summary(tables, errors),
        "models": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "shrink_errors": errors,
        "data": images.source,
        "quick": quick,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "numpy", "torch")},
    }


def half_scores(forms: Sequence[Variant], images: Images) -> dict[str, float]:
    """Return the accuracy on the test images of the forms with half the channels, which were trained on."""
    return {
        form.name: evaluate(form.model, images.test_inputs, images.test_classes).value
        for form in forms
        if form.name.startswith("half")
    }


def summary(tables: Mapping[str, Sequence[Row]], errors: Mapping[str, float]) -> dict[str, float | None]:
    """Return the numbers that stand for the whole; None where their model was not measured."""
    found: dict[str, float | None] = dict.fromkeys(
        ("resnet18_speedup", "resnet18_size_ratio", "resnet18_top1_drop_points", "unstructured_file_ratio")
    )
    if "resnet18" in tables:
        rows = {row.name: row for row in tables["resnet18"]}
        dense, both = rows["dense float32"], rows["half the channels, int8"]
        half, sparse = rows["half the channels"], rows["unstructured 80 %, sparse initialisers"]
        found["resnet18_speedup"] = dense.cpu_ms / both.cpu_ms
        found["resnet18_size_ratio"] = dense.file_bytes / both.file_bytes
        if half.accuracy is not None and both.accuracy is not None:
            found["resnet18_top1_drop_points"] = 100 * (half.accuracy - both.accuracy)
        found["unstructured_file_ratio"] = sparse.file_bytes / dense.file_bytes
    found["max_abs_error"] = max(errors.values(), default=None)
    return found


def _inputs(case: Case, images: Images) -> NDArray[np.float32]:
    if case.shape == images.inputs.shape[1:]:
        return images.inputs[:256]
    return np.random.default_rng(0).standard_normal((256, *case.shape)).astype(np.float32)


def _untrained(case: Case, inputs: NDArray[np.float32]) -> bytes:
    torch.manual_seed(1)
    module = case.build().eval()
    return make_template(module, inputs[:4], layout=layout_of(module))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
