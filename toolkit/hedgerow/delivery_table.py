"""What has become of a delivery, device by device: in place on a terminal, else one line for each change."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from hedgerow.console import say
from hedgerow_coordinator import DeliveryRow

_HEAD = ("device", "", "metric", "before", "after", "samples", "ms", "")


class DeliveryTable:
    """Show rows as they change.

    Parameters
    ----------
    size
        Of the model, bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._live = sys.stdout.isatty()
        self._lines = 0
        self._said: dict[str, str] = {}
        self._rows: tuple[DeliveryRow, ...] = ()

    def __enter__(self) -> DeliveryTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._live and any(row.report is not None for row in self._rows):
            print("\n".join(table(self._rows)))

    def show(self, rows: tuple[DeliveryRow, ...]) -> None:
        """Show what is known now."""
        self._rows = rows
        if self._live:
            width, height = shutil.get_terminal_size()
            lines = [line[: width - 1] for line in table(rows)][-max(2, height - 2) :]
            # Back to the table's first line, and clear from there on.
            sys.stdout.write((f"\x1b[{self._lines}F\x1b[J" if self._lines else "") + "\n".join(lines) + "\n")
            sys.stdout.flush()
            self._lines = len(lines)
            return
        for row in rows:
            if row.report is not None and self._said.get(row.name) != row.state:
                self._said[row.name] = row.state
                say(f"{row.name}: {row.state}{_detail(row)}")


def table(rows: tuple[DeliveryRow, ...]) -> list[str]:
    """Return the lines of a table."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_HEAD))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cells(row: DeliveryRow) -> tuple[str, ...]:
    numbers = {} if row.report is None else row.report.numbers
    reason = row.problem if row.report is None else row.report.reason

    def told(name: str, form: str) -> str:
        return format(numbers[name], form) if name in numbers else "-" * (row.is_final and name != "p50_ms")

    return (
        row.name,
        row.state,
        "" if row.report is None else row.report.metric,
        told("before", ".4f"),
        told("after", ".4f"),
        told("samples", ".0f"),
        told("p50_ms", ".2f"),
        reason,
    )


def _detail(row: DeliveryRow) -> str:
    assert row.report is not None
    numbers, words = row.report.numbers, []
    if "after" in numbers:
        first = f"{numbers['before']:.4f} -> " if "before" in numbers else ""
        words.append(
            f"{row.report.metric} {first}{numbers['after']:.4f} on {numbers.get('samples', 0):.0f} samples"
        )
    if "p50_ms" in numbers:
        words.append(f"{numbers['p50_ms']:.2f} ms for one")
    if row.report.reason:
        words.append(row.report.reason)
    return f", {', '.join(words)}" if words else ""
