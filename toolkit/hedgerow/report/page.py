"""Facts and charts to one self-contained HTML page."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hedgerow.errors import UsageError
from hedgerow.quantities import bytes_text, ratio_text, seconds_text
from hedgerow.report.charts import MISSING_PACKAGES, draw_charts, metric_text, unmeasured
from hedgerow.report.facts import RunFacts

MAX_ROWS = 500
_TEMPLATE = "report.html.j2"
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One number at the top of the page: what it is, its value, and a sentence about it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of a table, and how many of them were left out."""

    rows: Sequence[object]
    left_out: int


def render_page(facts: RunFacts, *, now: float) -> str:
    """Return the page; everything in it that came from a file or a peer is escaped.

    Parameters
    ----------
    facts : RunFacts
    now : float
        Unix time that the page names as its own.

    Raises
    ------
    hedgerow.errors.UsageError
        When matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
        import markupsafe
    except ImportError as error:
        raise UsageError(MISSING_PACKAGES) from error

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hedgerow", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": bytes_text, "seconds": seconds_text, "moment": _moment}
    environment.filters["metric"] = lambda value: metric_text(facts, value)
    return environment.get_template(_TEMPLATE).render(
        facts=facts,
        now=now,
        status=_status(facts),
        headlines=_headlines(facts),
        charts=draw_charts(facts),
        svg=markupsafe.Markup,
        attempts=_ends(facts.attempts),
        clients=_ends(facts.clients),
        events=_ends(facts.events),
        traffic=sorted(facts.traffic.items(), key=lambda entry: (-entry[1], entry[0])),
        unmeasured=unmeasured(facts),
    )


def write_page(page: str, *, path: Path) -> None:
    """Write the page whole or not at all.

    Raises
    ------
    hedgerow.errors.UsageError
        When it cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            unfinished = Path(file.name)
            file.write(page)
        try:
            # Temporary files are for their owner alone; this one is to be looked at.
            unfinished.chmod(0o666 & ~_umask())
            os.replace(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; name another file with -o"
        ) from error


def _status(facts: RunFacts) -> str:
    done = facts.committed[-1].round if facts.committed else 0
    if facts.finished:
        return f"finished, {done} of {facts.planned_rounds} rounds"
    if facts.failure:
        return f"failed after {done} of {facts.planned_rounds} rounds"
    return f"not finished, {done} of {facts.planned_rounds} rounds so far"


def _headlines(facts: RunFacts) -> list[Headline]:
    sent = bytes_text(facts.broadcast_bytes)
    down_note = f"the coordinator sent {sent}, one broadcast for all"
    return [
        Headline(
            name="rounds", value=f"{len(facts.committed)} of {facts.planned_rounds}", note=_attempts(facts)
        ),
        _metric(facts),
        Headline(
            name="density",
            value="unknown" if facts.density is None else f"{facts.density:.1%}",
            note=facts.unread or f"of {facts.num_parameters or 0:,} parameters are kept",
        ),
        Headline(
            name="bytes up",
            value=bytes_text(facts.uplink_bytes),
            note=_against_dense(facts, facts.uplink_bytes),
        ),
        Headline(
            name="bytes down",
            value=bytes_text(facts.downlink_bytes),
            note=f"{_against_dense(facts, facts.downlink_bytes)}; {down_note}",
        ),
        Headline(
            name="time in rounds",
            value=seconds_text(facts.seconds),
            note=f"{facts.seconds / len(facts.committed):.1f} s for each committed round"
            if facts.committed
            else "",
        ),
    ]


def _metric(facts: RunFacts) -> Headline:
    if not facts.measured:
        return Headline(name=facts.metric, value="not measured", note=unmeasured(facts))
    last = facts.measured[-1]
    return Headline(
        name=facts.metric,
        value=metric_text(facts, last.accuracy),
        note=f"on the coordinator's test data, after round {last.round}",
    )


def _attempts(facts: RunFacts) -> str:
    failed = len(facts.attempts) - len(facts.committed)
    if not failed:
        return "no attempt failed"
    return f"{failed} failed attempt{'s' if failed > 1 else ''} beside them"


def _against_dense(facts: RunFacts, num_bytes: int) -> str:
    if not facts.dense_bytes:
        return "no comparison with dense float32: the size of the model is not known yet"
    return f"{ratio_text(num_bytes, facts.dense_bytes)} than dense float32"


def _ends(rows: Sequence[_Row]) -> Table:
    """Keep the first and the last rows of a table that is too long for a page."""
    if len(rows) <= MAX_ROWS:
        return Table(rows=rows, left_out=0)
    half = MAX_ROWS // 2
    return Table(rows=[*rows[:half], *rows[-half:]], left_out=len(rows) - 2 * half)


def _moment(unix_time: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_time))
    except (OverflowError, ValueError, OSError):
        # A clock that was never set can have written anything.
        return f"{unix_time:.0f} s"


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
