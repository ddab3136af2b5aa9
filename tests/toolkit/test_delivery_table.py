"""What `hedgerow deliver` shows of the devices: in place on a terminal, else a line for each change."""

import sys

import pytest

from hedgerow.delivery_table import DeliveryTable, table
from hedgerow_coordinator import DeliveryRow
from hedgerow_transport import DeliveryReport


def row(name: str, outcome: str = "", *, reason: str = "", **numbers: float) -> DeliveryRow:
    if not outcome:
        return DeliveryRow(name=name, online=True, answers=True)
    metric = "accuracy" if numbers else ""
    report = DeliveryReport(model=bytes(16), outcome=outcome, reason=reason, metric=metric, numbers=numbers)
    return DeliveryRow(name=name, online=True, answers=True, report=report)


def test_a_table_has_a_row_for_each_device() -> None:
    rows = (
        row("a", "worse", reason="it stays", before=0.9, after=0.8, samples=10, p50_ms=1.25),
        row("b", "accepted", after=0.75, samples=64),
        row("kitchen"),
        DeliveryRow(name="old", online=True),
        DeliveryRow(name="shed"),
        DeliveryRow(name="x", problem="a message of x is forged"),
    )
    assert table(rows) == [
        "device                 metric    before  after   samples  ms",
        "a        worse         accuracy  0.9000  0.8000  10       1.25  it stays",
        "b        accepted      accuracy  -       0.7500  64",
        "kitchen  waiting",
        "old      too old",
        "shed     away",
        "x        not believed" + " " * 43 + "a message of x is forged",
    ]


def test_without_a_terminal_each_change_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with DeliveryTable(10) as shown:
        for outcome in ("fetching", "fetching", "trying"):
            shown.show((row("a", outcome),))
        shown.show((row("a", "accepted", before=0.5, after=0.75, samples=64, p50_ms=0.5),))
    lines = [line[10:] for line in capsys.readouterr().out.splitlines()[:3]]
    told = "a: accepted, accuracy 0.5000 -> 0.7500 on 64 samples, 0.50 ms for one"
    assert lines == ["a: fetching", "a: trying", told]


def test_on_a_terminal_the_table_is_drawn_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with DeliveryTable(10) as shown:
        shown.show((row("a"),))
        shown.show((row("a", "trying"), row("b")))
        shown.show((row("a", "trying"), row("b")))
    said = capsys.readouterr().out
    assert said.count("\x1b[2F\x1b[J") == 1
    assert said.count("\x1b[3F\x1b[J") == 1
    assert said.endswith("b       waiting\n")
