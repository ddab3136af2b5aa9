"""The page's charts: matplotlib draws, the page's style sheet colours them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hedgerow.errors import UsageError
from hedgerow.quantities import bytes_text, bytes_unit, seconds_text
from hedgerow.report.facts import RunFacts
from hedgerow_coordinator import RoundRecord

MISSING_PACKAGES = "the report needs matplotlib and jinja2: pip install 'hedgerow[report]'"
MAX_BARS = 30
MAX_MARKERS = 60
_WIDTH_IN = 4.8
# Drawn in these, shown in the custom properties of the style sheet, which knows about dark mode and print.
_COLOURS = {
    "ink": "#101112",
    "muted": "#606162",
    "grid": "#d0d1d2",
    "first": "#107040",
    "second": "#c07010",
    "failed": "#c02030",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["grid"],
    "grid.linewidth": 0.7,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["muted"],
    "ytick.color": _COLOURS["muted"],
    "xtick.labelcolor": _COLOURS["ink"],
    "ytick.labelcolor": _COLOURS["ink"],
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart, or the sentence that stands where it would be.

    Parameters
    ----------
    name : str
        Letters alone; begins the ids inside the SVG, so that those of two charts differ.
    title, caption : str
        Plain text.
    svg : str
        Markup; empty when there is nothing to draw, and the caption says why.
    """

    name: str
    title: str
    caption: str
    svg: str = ""


def draw_charts(facts: RunFacts) -> tuple[Chart, ...]:
    """Draw all charts.

    Raises
    ------
    hedgerow.errors.UsageError
        When matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(MISSING_PACKAGES) from error

    # What the user's own matplotlibrc says is for the user's own charts.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        return (metric_by_bytes(facts), progress(facts), client_bytes(facts), round_seconds(facts))


def metric_by_bytes(facts: RunFacts) -> Chart:
    """Draw the metric of each measured version against the uplink bytes spent until then."""
    name = _capital(facts.metric)
    title = f"{name} against bytes sent up"
    if not facts.measured:
        return Chart(name="cost", title=title, caption=unmeasured(facts))
    spent = dict(zip((record.round for record in facts.committed), facts.cumulative_uplink, strict=True))
    xs = [spent[record.round] for record in facts.measured]
    ys = [record.accuracy for record in facts.measured]
    scale, unit = bytes_unit(xs[-1])
    caption = (
        f"{name} {metric_text(facts, ys[-1])} after {bytes_text(xs[-1])} from all clients together. "
        "Each point is a measured version."
    )
    if facts.dense_bytes:
        caption += (
            f" Dense float32 would have taken {bytes_text(facts.dense_bytes)} (computed, not measured)."
        )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([x / scale for x in xs], ys, color=_COLOURS["first"], marker=_marker(len(xs)))
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} received by the coordinator, summed over rounds")
        axes.set_ylabel(facts.metric)

    return Chart(name="cost", title=title, caption=caption, svg=_svg("cost", draw, height_in=3.4))


def progress(facts: RunFacts) -> Chart:
    """Draw metric and density per round, one above the other."""
    title = f"{_capital(facts.metric)} and density per round"
    if not facts.committed:
        return Chart(name="progress", title=title, caption="No round is committed yet.")
    rounds = [record.round for record in facts.committed]
    last = facts.committed[-1]
    caption = f"Round {last.round} was trained under a mask that keeps {last.density:.1%} of the parameters."
    if not facts.measured:
        caption += " " + unmeasured(facts)

    def draw(figure: Any) -> None:
        panels = figure.subplots(2 if facts.measured else 1, 1, sharex=True, squeeze=False)[:, 0]
        if facts.measured:
            measured = [record.round for record in facts.measured]
            values = [record.accuracy for record in facts.measured]
            panels[0].plot(measured, values, color=_COLOURS["first"], marker=_marker(len(measured)))
            panels[0].set_ylabel(facts.metric)
        density = [record.density for record in facts.committed]
        panels[-1].step(rounds, density, where="mid", color=_COLOURS["second"])
        panels[-1].set_ylim(0, 1.05)
        panels[-1].set_ylabel("density")
        _count_rounds(panels[-1], rounds)
        figure.align_ylabels()

    height_in = 4.2 if facts.measured else 2.6
    return Chart(
        name="progress", title=title, caption=caption, svg=_svg("progress", draw, height_in=height_in)
    )


def client_bytes(facts: RunFacts) -> Chart:
    """Draw what each client has sent and received."""
    title = "Bytes per client"
    if not facts.clients:
        return Chart(name="clients", title=title, caption="No update has been taken in yet.")
    busiest = sorted(facts.clients, key=lambda client: (-client.uplink_bytes, client.client))
    shown = sorted(busiest[:MAX_BARS], key=lambda client: client.client, reverse=True)
    most = max(max(client.uplink_bytes, client.received_bytes) for client in shown)
    scale, unit = bytes_unit(most)
    caption = "Sent: encoded updates, counted by the coordinator. Received: packets, as each client told."
    if len(shown) < len(facts.clients):
        caption += f" The {len(shown)} that sent most, of {len(facts.clients)}; the table has more."

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = range(len(shown))
        bars = (
            ("received", [c.received_bytes / scale for c in shown], _COLOURS["second"], -0.2),
            ("sent", [c.uplink_bytes / scale for c in shown], _COLOURS["first"], 0.2),
        )
        for label, values, colour, offset in bars:
            axes.barh([place + offset for place in places], values, height=0.36, color=colour, label=label)
        axes.set_yticks(list(places), [client.client for client in shown])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=2)

    height_in = 1.3 + 0.42 * len(shown)
    return Chart(name="clients", title=title, caption=caption, svg=_svg("clients", draw, height_in=height_in))


def round_seconds(facts: RunFacts) -> Chart:
    """Draw how long each round took, failed attempts on top of the one that succeeded."""
    title = "Seconds per round"
    if not facts.attempts:
        return Chart(name="seconds", title=title, caption="No round has ended yet.")
    committed = _seconds(facts.attempts, status="committed")
    failed = _seconds(facts.attempts, status="failed")
    rounds = sorted(committed.keys() | failed.keys())
    done = [committed.get(number, 0.0) for number in rounds]
    lost = [failed.get(number, 0.0) for number in rounds]
    caption = f"{seconds_text(sum(done) + sum(lost))} in rounds; waiting for clients is not in it."
    if any(lost):
        caption += f" {seconds_text(sum(lost))} of it went into failed attempts."

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _stack(axes, rounds, [0.0] * len(rounds), done, colour="first", label="committed")
        if any(lost):
            total = [ok + bad for ok, bad in zip(done, lost, strict=True)]
            _stack(axes, rounds, done, total, colour="failed", label="failed attempts")
            figure.legend(loc="outside upper right", ncols=2)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("seconds")
        _count_rounds(axes, rounds)

    return Chart(name="seconds", title=title, caption=caption, svg=_svg("seconds", draw, height_in=2.9))


def unmeasured(facts: RunFacts) -> str:
    """Return why there is no metric to show."""
    if facts.has_test_data:
        return f"No version has been measured yet, so there is no {facts.metric} to show."
    return f"No test data: the plan names none under [evaluate], so {facts.metric} was not measured."


def metric_text(facts: RunFacts, value: float | None) -> str:
    """Return a value of the metric: accuracy in percent, others as they are."""
    if value is None:
        return "not measured"
    return f"{value:.1%}" if facts.metric == "accuracy" else f"{value:.4g}"


def _seconds(attempts: tuple[RoundRecord, ...], *, status: str) -> dict[int, float]:
    total: dict[int, float] = {}
    for record in attempts:
        if record.status == status:
            total[record.round] = total.get(record.round, 0.0) + record.seconds
    return total


def _stack(
    axes: Any, rounds: list[int], bottom: list[float], top: list[float], *, colour: str, label: str
) -> None:
    """Draw a bar for each round; of many rounds one outline, since thousands of bars make a heavy page."""
    if len(rounds) <= MAX_MARKERS:
        heights = [end - start for start, end in zip(bottom, top, strict=True)]
        axes.bar(rounds, heights, bottom=bottom, width=0.8, color=_COLOURS[colour], label=label)
    else:
        axes.fill_between(rounds, bottom, top, step="mid", linewidth=0, color=_COLOURS[colour], label=label)


def _count_rounds(axes: Any, rounds: list[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _marker(num_points: int) -> str:
    return "o" if num_points <= MAX_MARKERS else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _svg(name: str, draw: Callable[[Any], None], *, height_in: float) -> str:
    """Draw on a new figure and return an SVG element that can stand in an HTML page beside others."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    # Ids inside the SVG are hashes; a fixed salt makes the same run give the same page.
    rcParams["svg.hashsalt"] = name
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    draw(figure)
    target = io.StringIO()
    # Without its metadata the file names no web address.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(target, format="svg", transparent=True, metadata=metadata)
    return _for_html(target.getvalue(), name=name)


def _for_html(svg: str, *, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = (
        re.sub(r' (xmlns(:xlink)?|width|height)="[^"]*"', "", svg.split(">", 1)[0])
        + ">"
        + svg.split(">", 1)[1]
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    # Older versions of matplotlib write the shorthand `font:`, newer ones `font-family:`.
    svg = re.sub(r"(font(-family)?: [^'\";]*)'[^;\"]*", r"\1var(--font)", svg)
    for colour, code in _COLOURS.items():
        svg = svg.replace(code, f"var(--{colour})")
    return svg.replace("<svg ", '<svg role="img" aria-labelledby="' + f'{name}-title" ', 1)
