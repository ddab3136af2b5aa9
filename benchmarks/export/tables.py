"""A report as text and as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.export.models import CASES
from benchmarks.export.variants import Row

BEGIN = "<!-- numbers: written by benchmarks.export -->"
END = "<!-- end of numbers -->"
_HEAD = ("", "file", "zipped", "wall", "processor", "faster", "largest error", "same answers", "accuracy")


def text_table(rows: Sequence[Row]) -> str:
    """Return the forms of one model as lines of text."""
    cells = [_HEAD, *(_cells(row, rows[0]) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def numbers(report: Mapping[str, Any]) -> str:
    """Return a report as Markdown."""
    machine, versions = report["machine"], report["versions"]
    held = ", ".join(f"{name} {number}" for name, number in versions.items())
    parts = [
        f"One thread of {machine['processor']} ({machine['cores']} cores); {held}; images: {report['data']}."
    ]
    told = {name: "-" if value is None else f"{value:.3g}" for name, value in report["summary"].items()}
    parts.append(
        "\n".join(["| summary | |", "| --- | ---: |", *(f"| `{n}` | {v} |" for n, v in told.items())])
    )
    for name, entries in report["models"].items():
        rows = [Row(**entry) for entry in entries]
        lines = [_HEAD, ("---", *["---:"] * (len(_HEAD) - 1)), *(_cells(row, rows[0]) for row in rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {CASES[name].title}\n\n{table}")
    return "\n\n".join(parts)


def write_document(path: Path, tables: str) -> int:
    """Replace what is between the two marks of a document; return the exit code."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{path} has no lines {BEGIN!r} and {END!r}", file=sys.stderr)
        return 2
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
    return 0


def _cells(row: Row, dense: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.file_bytes / 1e6:.3f} MB",
        f"{row.zip_bytes / 1e6:.3f} MB",
        f"{row.wall_ms:.3f} ms",
        f"{row.cpu_ms:.3f} ms",
        f"{dense.cpu_ms / row.cpu_ms:.2f}x",
        "" if row.max_abs_error is None else f"{row.max_abs_error:.1e}",
        "" if row.top1_agreement is None else f"{row.top1_agreement:.1%}",
        "" if row.accuracy is None else f"{row.accuracy:.4f}",
    )
