"""The demo's live table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hedgerow_coordinator import RoundRecord

# Title, header, lines of the frame, and the line with the cursor.
FRAME_LINES = 6


class LiveTable:
    """Show one row for each committed round; on a terminal in place, else one line after the other.

    Parameters
    ----------
    rounds
        How many there will be.
    console
        Where to show them.
    """

    def __init__(self, *, rounds: int, console: Console) -> None:
        self.console = console
        self._rounds = rounds
        self._shown = 0
        self._status = ""
        self._records: Sequence[RoundRecord] = ()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(self._table(()), console=console, refresh_per_second=8)

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._status = ""
            self._live.update(self._table(self._records), refresh=True)
            self._live.stop()

    def show(self, records: Sequence[RoundRecord], *, status: str) -> None:
        """Show the rounds so far, and what is going on."""
        self._records = records
        if self._live is not None:
            self._status = status
            # A table that is longer than the screen would hide what is new.
            self._live.update(self._table(records[-max(1, self.console.height - FRAME_LINES) :]))
            return
        if status != self._status:
            self._status = status
            self.console.print(status, soft_wrap=True)
        for record in records[self._shown :]:
            accuracy = "-" if record.accuracy is None else f"{record.accuracy:.4f}"
            line = (
                f"round {record.round:>2}/{self._rounds}  density {record.density:.3f}  accuracy {accuracy}  "
                f"up {record.uplink_bytes:>9,} B  down {record.delivered_bytes:>9,} B  {record.seconds:.1f} s"
            )
            self.console.print(line, soft_wrap=True)
        self._shown = len(records)

    def _table(self, records: Sequence[RoundRecord]) -> Table:
        table = Table(title=self._status or None, title_justify="left", title_style="italic")
        for name in ("round", "density", "accuracy", "bytes up", "bytes down", "seconds"):
            table.add_column(name, justify="right")
        for record in records:
            table.add_row(
                f"{record.round}/{self._rounds}",
                f"{record.density:.3f}",
                "-" if record.accuracy is None else f"{record.accuracy:.4f}",
                f"{record.uplink_bytes:,}",
                f"{record.delivered_bytes:,}",
                f"{record.seconds:.1f}",
            )
        return table
