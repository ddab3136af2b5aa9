"""A plot of the pruning benchmark: accuracy against bytes sent, and against the density at the end."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Result = Mapping[str, object]

_COLORS = ("#1b6b3a", "#c2571a", "#5b6b8c", "#7a4b8f", "#b08d1e", "#2f8f9d", "#9b2d4e", "#6f6f6f")
_MARKERS = "os^vDx*P"
# Those whose way to their accuracy is drawn at every density, not its end at one alone.
_WHOLE_RUNS = ("hedgerow", "fedavg")
_ONE_DENSITY = 0.2
_DASHES = ("-", "--", ":", "-.", (0, (1, 3)))
# FedDST's published means, MNIST and Fashion-MNIST: Bibikar 2022's method on this benchmark, float32.
_PUBLISHED = {
    "mnist_writers": ((0.2, 0.8857), (0.1, 0.8610), (0.05, 0.7223)),
    "fashion_mnist": ((0.2, 0.7125), (0.1, 0.7038), (0.05, 0.6557)),
}


def plot_pruning(results: Sequence[Result], path: Path) -> None:
    """Draw results of the benchmark; the format is that of the file's name.

    Parameters
    ----------
    results : sequence of mappings
        As in the benchmark's JSON. Means are over the seeds of a recipe at a density.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    packs = sorted({str(result["pack"]) for result in results}, reverse=True)
    names = list(dict.fromkeys(str(result["recipe"]) for result in results))
    looks = dict(zip(names, itertools.product(_MARKERS, _COLORS), strict=False))
    figure, axes = pyplot.subplots(
        len(packs), 2, figsize=(12, 4 * len(packs)), squeeze=False, layout="constrained"
    )
    for (by_bytes, by_density), pack in zip(axes, packs, strict=True):
        lines = mean_lines([result for result in results if result["pack"] == pack])
        recipes: dict[str, list[tuple[float, float]]] = {}
        shown = _one_each(lines.values())
        for label, line in sorted(lines.items(), key=lambda each: -each[1].accuracies[-1]):
            points = recipes.setdefault(line.recipe, [])
            label = f"{line.accuracies[-1]:.3f}  {label}"
            marker, color = looks.get(line.recipe, (".", "#999999"))
            if line.recipe in _WHOLE_RUNS:
                dashes = _DASHES[len(points) % len(_DASHES)]
                by_bytes.plot(line.uplink_mb, line.accuracies, color=color, linestyle=dashes, label=label)
            elif line in shown:
                end = line.uplink_mb[-1], line.accuracies[-1]
                by_bytes.plot(*end, color=color, marker=marker, markersize=5, linestyle="", label=label)
            points.append((line.density, line.accuracies[-1]))
        # The first rounds' accuracies are of no interest, and would press the rest together.
        floor = max(line.accuracies[-1] for line in lines.values()) - 0.4
        by_bytes.set_ylim(floor, None)
        by_bytes.set_xscale("log")
        by_bytes.set_xlabel(
            "sent by all clients, MB: round by round (lines), in all rounds (marks)", fontsize=8
        )
        by_bytes.set_ylabel("accuracy", fontsize=8)
        published = "FedDST, published"
        several = {recipe: points for recipe, points in recipes.items() if len(points) > 1}
        for recipe, points in {**several, published: list(_PUBLISHED[pack])}.items():
            marker, color = looks.get(recipe, (".", "#999999"))
            by_density.plot(
                *zip(*sorted(points), strict=True), color=color, marker=marker, markersize=4, label=recipe
            )
        if "fedavg" in lines:
            dense = lines["fedavg"].accuracies[-1]
            by_density.axhline(dense, color=looks["fedavg"][1], linewidth=0.8, label="fedavg, dense")
        by_density.set_ylim(floor, None)
        by_density.set_xscale("log")
        by_density.set_xticks(
            [0.02, 0.05, 0.1, 0.2, 0.5, 1], labels=["2 %", "5 %", "10 %", "20 %", "50 %", "all"]
        )
        by_density.minorticks_off()
        by_density.set_xlabel("live weights asked for", fontsize=8)
        for axis in (by_bytes, by_density):
            axis.set_title(pack.replace("_", " "), fontsize=9)
            axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
            axis.tick_params(labelsize=7)
        by_bytes.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        by_density.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


class MeanLine:
    """A recipe at a density, the mean over its seeds: accuracy and MB sent, by round."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.recipe = str(results[0]["recipe"])
        asked = results[0]["density"]
        ends = _numbers(results, "final_density")
        self.density = statistics.mean(ends) if asked is None else float(str(asked))
        self.accuracies = _columns(results, "accuracies")
        self.uplink_mb = list(itertools.accumulate(_columns(results, "uplink_mb_by_round")))


def mean_lines(results: Sequence[Result]) -> dict[str, MeanLine]:
    """Return the lines of one pack by their labels."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        label = str(result["recipe"]) + (f" {result['density']:g}" if result["density"] else "")
        groups.setdefault(label, []).append(result)
    return {label: MeanLine(found) for label, found in groups.items()}


def _one_each(lines: Iterable[MeanLine]) -> list[MeanLine]:
    """Return of each recipe the line whose density is nearest to that of which all are shown."""
    nearest: dict[str, MeanLine] = {}
    for line in sorted(lines, key=lambda line: abs(line.density - _ONE_DENSITY)):
        nearest.setdefault(line.recipe, line)
    return list(nearest.values())


def _numbers(results: Sequence[Result], key: str) -> list[float]:
    return [float(str(result[key])) for result in results]


def _columns(results: Sequence[Result], key: str) -> list[float]:
    rows = [value for result in results if isinstance(value := result[key], list)]
    return [statistics.mean(column) for column in zip(*rows, strict=True)]
