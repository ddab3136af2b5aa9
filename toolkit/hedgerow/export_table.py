"""What an export has gained, as a table for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hedgerow.quantities import bytes_text

if TYPE_CHECKING:
    from hedgerow.exporting import ExportFacts


def export_table(facts: ExportFacts) -> str:
    """Return the table of an export: the float model with all its channels beside what was written."""
    dense, made = facts.product.dense, facts.product.made
    rows = [
        ("", "float32, zeros in place", "exported", "ratio"),
        _sizes("file", dense.file_bytes, made.file_bytes),
        _sizes("zipped", dense.zip_bytes, made.zip_bytes),
        _counts("parameters", dense.parameters, made.parameters),
        _counts("multiply-adds", dense.multiply_adds, made.multiply_adds),
    ]
    if dense.metric is not None and made.metric is not None:
        rows.append((facts.metric, f"{dense.metric:.4f}", f"{made.metric:.4f}", ""))
    for before, after in zip(dense.latency, made.latency, strict=True):
        threads = f"{before.threads} thread{'s' if before.threads > 1 else ''}"
        for name, one, two in (
            ("p50", before.p50_ms, after.p50_ms),
            ("p95", before.p95_ms, after.p95_ms),
        ):
            rows.append((f"{name}, {threads}", f"{one:.3f} ms", f"{two:.3f} ms", _ratio(one, two)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_remarks(facts)])


def _remarks(facts: ExportFacts) -> list[str]:
    product = facts.product
    found = product.agreement
    same = "" if found.top1_agreement is None else f", {found.top1_agreement:.2%} same answers"
    lines = [f"agreement  largest error {found.max_abs_error:.1e}{same}, on {product.num_samples} inputs"]
    if product.quantized_layers:
        lines.append(f"quantised  {product.quantized_layers} layers")
    if product.spared:
        lines.append(f"in float   {', '.join(product.spared)}: quantised they changed too many answers")
    if product.sparse_tensors:
        lines.append(
            f"sparse     {product.sparse_tensors} tensors; onnxruntime makes them dense when it loads them"
        )
    if product.made.multiply_adds == product.dense.multiply_adds and facts.density < 1:
        lines.append(
            "Zeros of single weights make a file compressible, not faster under onnxruntime; "
            "no channel was empty, so none could be taken out."
        )
    return lines


def _sizes(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, bytes_text(before), bytes_text(after), _ratio(before, after)


def _counts(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, f"{before:,}", f"{after:,}", _ratio(before, after)


def _ratio(before: float, after: float) -> str:
    """Return how many times less the second number is."""
    return f"1/{before / after:.1f}" if after and before >= after else f"{after / max(before, 1e-12):.2f}x"
