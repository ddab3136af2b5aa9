"""A plot of rate against signal-to-noise ratio, one panel for each model and way of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

# From dark to light by how much they matter here; every line has a marker, too.
_STYLES: Mapping[str, tuple[str, str]] = {
    "hedgerow": ("#1b6b3a", "o"),
    "nncodec trellis": ("#c2571a", "s"),
    "nncodec": ("#e39a5b", "^"),
    "zstd int8": ("#5b6b8c", "v"),
    "QSGD Elias": ("#8d9ab5", "x"),
    "STC Golomb": ("#7a4b8f", "D"),
}
_CELL_KEYS = {"hedgerow": "hedgerow", "nncodec trellis": "trellis", "nncodec": "plain"}
_COLUMNS = 4


def plot_rates(report: Mapping[str, object], path: Path) -> None:
    """Draw a report of the benchmark; the format is that of the file's name.

    Parameters
    ----------
    report : mapping
        With "cells", "peers" and "parameters" as in the benchmark's JSON.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = rate_lines(report)
    names = list(lines)
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3 * columns, 2.4 * rows + 0.4), sharex=True, sharey=True, squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for codec, points in lines[name].items():
            color, marker = _STYLES[codec]
            axis.plot(
                [ratio for ratio, _ in points],
                [bits for _, bits in points],
                color=color,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                label=codec,
            )
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_title(name, fontsize=9)
        axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for column in range(columns):  # the lowest panel in each, which says what all share
        last = axes[(len(names) - 1 - column) // columns, column]
        last.set_xlabel("signal-to-noise ratio, dB", fontsize=8)
        last.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("bits per live weight", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / (2.4 * rows + 0.4)))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    if path.suffix == ".png":  # for a document: a fifth of the bytes in a few dozen colours
        from PIL import Image

        with Image.open(path) as image:
            few = image.convert("RGB").quantize(64)
        few.save(path, optimize=True)


def rate_lines(report: Mapping[str, object]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return (decibels, bits per live weight) by case and codec, without what was not measured."""
    parameters = report["parameters"]
    assert isinstance(parameters, Mapping)
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell in _rows(report["cells"]):
        case, ratio = str(cell["case"]), float(cell["snr_db"])
        for codec, key in _CELL_KEYS.items():
            _add(lines, case, codec, ratio, cell[key], parameters)
    for cell in _rows(report["peers"]):
        case, codec = str(cell["case"]), str(cell["codec"])
        if codec in _STYLES:
            _add(lines, case, codec, float(cell["snr_db"]), cell["num_bytes"], parameters)
    return lines


def _rows(value: object) -> Sequence[Mapping[str, float]]:
    assert isinstance(value, list)
    return value


def _add(
    lines: dict[str, dict[str, list[tuple[float, float]]]],
    case: str,
    codec: str,
    ratio: float,
    num_bytes: float | None,
    parameters: Mapping[str, int],
) -> None:
    if num_bytes is not None:
        points = lines.setdefault(case, {}).setdefault(codec, [])
        points.append((ratio, 8 * num_bytes / parameters[case]))
