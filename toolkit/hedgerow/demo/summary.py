"""The demo's last words."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from hedgerow.demo.facts import DemoFacts


def print_summary(facts: DemoFacts, *, directory: Path, console: Console) -> None:
    """Print the outcome beside dense FedAvg, the bytes by kind, the model, and what to look at next."""
    console.print(_comparison(facts))
    console.print(_kinds(facts))
    agreement = (
        "" if facts.onnx_top1_agreement is None else f", same answer on {facts.onnx_top1_agreement:.1%}"
    )
    console.print(
        f"model      {facts.onnx_path}: {facts.onnx_bytes:,} bytes, density {facts.density:.3f}\n"
        f"checked    onnxruntime against torch on the test set: largest error "
        f"{facts.onnx_max_abs_error:.1e}{agreement}\n"
        f"time       {facts.wall_s:.0f} s\n"
        f"next       hedgerow report {directory / 'run'}",
        soft_wrap=True,
    )


def _comparison(facts: DemoFacts) -> Table:
    table = Table(title=f"{facts.rounds} rounds, {facts.clients} clients", title_justify="left")
    table.add_column("")
    table.add_column("hedgerow", justify="right")
    table.add_column("dense float32 FedAvg", justify="right")
    table.add_column("ratio", justify="right")
    dense = "not run" if facts.dense_accuracy is None else f"{facts.dense_accuracy:.4f}"
    table.add_row("accuracy on the test set", f"{facts.accuracy:.4f}", dense, "")
    table.add_row("density", f"{facts.density:.3f}", "1.000", "")
    rows = (
        ("bytes up, all clients", facts.uplink_bytes, facts.dense_uplink_bytes),
        ("bytes down, all clients", facts.downlink_bytes, facts.dense_downlink_bytes),
    )
    for name, num, other in rows:
        beside = ("not run", "") if other is None else (f"{other:,}", f"1/{other / num:.0f}")
        table.add_row(name, f"{num:,}", *beside)
    return table


def _kinds(facts: DemoFacts) -> Table:
    table = Table(title="bytes at the coordinator", title_justify="left")
    table.add_column("kind")
    table.add_column("bytes", justify="right")
    for kind, num in facts.bytes_by_kind.items():
        table.add_row(kind, f"{num:,}")
    return table
