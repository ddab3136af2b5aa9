"""The pruning benchmark: accuracy at a density, and bytes to accuracy, for every recipe, on benchmark B1.

Five clients, Dirichlet(0.3), 20 rounds, as in `benchmarks.b1`; masks, scores and manifests are in the bytes.
By default it runs our own recipe at three densities, dense FedAvg and FedDST for one seed, on MNIST and then
on Fashion-MNIST, as far as 15 minutes go; `--full` runs everything for five seeds, which takes days. What the
JSON file has is not run again.

    HEDGEROW_DATA=... python -m benchmarks.pruning --json pruning.json --plot pruning.png
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.b1 import CLIENTS, ROUNDS, SEEDS, TARGETS, TASK, bytes_to_target, run_method, write_data
from benchmarks.pruning_plot import plot_pruning

from hedgerow.initialise import initialise
from hedgerow_coordinator.pruning import RECIPES
from hedgerow_coordinator.settings import write_tables

DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
NAMES = {"mnist_writers": "mnist", "fashion_mnist": "fmnist"}
# These do not take a density: dense ones, and those in which it is an outcome.
WITHOUT_DENSITY = (
    "fedavg",
    "stc",
    "seed-soft",
    "seed-norm",
    "prunefl",
    "tiers",
    "fiarse",
    "heterofl",
    "fedpm",
    "hermes",
)
# Who is weaker in the recipes with tiers. The clients of a simulation have no memory size to go by.
TIERS = {"client-[12]": 0.5, "client-[34]": 0.25}
# FedPM steps scores by Adam, at its paper's rate; B1's is for descent on weights.
LEARNING_RATES = {"fedpm": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: `density` is None where the recipe has none."""

    pack: str
    recipe: str
    density: float | None
    seed: int
    rounds: int


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """List the runs that are wanted, those of a seed together."""
    for pack in options.packs:
        for seed in options.seeds:
            for recipe in options.recipes:
                for density in [None] if recipe in WITHOUT_DENSITY else options.densities[recipe]:
                    yield Cell(pack=pack, recipe=recipe, density=density, seed=seed, rounds=options.rounds)


def plan_of(cell: Cell) -> str:
    """Return the plan of a run as TOML: benchmark B1's settings, and the recipe's."""
    tables: dict[str, dict[str, object]] = {
        "run": {"name": "pruning", "rounds": cell.rounds, "seed": cell.seed},
        "cohort": {"min_clients": CLIENTS, "quorum": 1.0},
        "training": {
            "epochs": 1,
            "batch_size": 64,
            "learning_rate": LEARNING_RATES.get(cell.recipe, 0.01),
        },
        "evaluate": {"data": "evaluate.npz"},
    }
    for name, settings in RECIPES[cell.recipe].settings(cell.rounds).items():
        table, _, inner = name.partition(".")
        place = tables.setdefault(table, {})
        place.update({inner: dict(settings)} if inner else settings)
    pruning = tables.setdefault("pruning", {})
    if cell.density is not None:
        pruning["density"] = cell.density
    if pruning.get("policy") == "tiered":
        pruning["tiers"] = dict(TIERS)
    return write_tables(tables)


def run_cell(cell: Cell, *, work: Path, folders: dict[str, Path | None], workers: int) -> dict[str, object]:
    """Run one plan, beside the template in `work`; return its numbers."""
    started = time.monotonic()
    label = f"{cell.recipe} {cell.density or ''}".rstrip() + ": "
    facts = run_method(plan_of(cell), work, folders, workers=workers, label=label)
    if facts.failure:
        raise SystemExit(f"{cell.recipe} at density {cell.density} failed: {facts.failure}")
    return {
        **asdict(cell),
        **bytes_to_target(facts, TARGETS[cell.pack]),
        "final_accuracy": facts.metric,
        "personal_accuracy": facts.personal_metric,
        "final_density": facts.density,
        "accuracies": [record.accuracy for record in facts.rounds],
        "uplink_mb_by_round": [record.uplink_bytes / 1e6 for record in facts.rounds],
        "total_uplink_mb": facts.uplink_bytes / 1e6,
        "total_broadcast_mb": facts.broadcast_bytes / 1e6,
        "total_downlink_mb": facts.downlink_bytes / 1e6,
        "wall_s": round(time.monotonic() - started, 1),
    }


def summary_of(results: Sequence[Mapping[str, object]]) -> dict[str, float | None]:
    """Return the numbers that matter most, means over the seeds that were run; None where nothing was."""

    def values(key: str, pack: str, recipe: str, density: float | None) -> list[object]:
        wanted = (pack, recipe, density)
        return [r[key] for r in results if (r["pack"], r["recipe"], r["density"]) == wanted]

    def mean(key: str, pack: str, recipe: str, density: float | None) -> float | None:
        found = values(key, pack, recipe, density)
        numbers = [v for v in found if isinstance(v, float)]
        # A seed that never got there makes the mean meaningless.
        return statistics.mean(numbers) if numbers and len(numbers) == len(found) else None

    summary: dict[str, float | None] = {}
    for pack, short in NAMES.items():
        for density in (0.2, 0.1, 0.05):
            name = f"{short}_s{round(100 * (1 - density))}"
            summary[name] = mean("final_accuracy", pack, "hedgerow", density)
        summary[f"{short}_dense"] = mean("final_accuracy", pack, "fedavg", None)
    summary["feddst_s80"] = mean("final_accuracy", "mnist_writers", "feddst", 0.2)
    summary["uplink_ratio_to_target"] = _uplink_ratio(results)
    return summary


def _uplink_ratio(results: Sequence[Mapping[str, object]]) -> float | None:
    """Return dense FedAvg's bytes to target over ours, MNIST, 10 % live, summed over the seeds of both."""

    def by_seed(recipe: str, density: float | None) -> dict[object, float]:
        cells = [
            r for r in results if (r["pack"], r["recipe"], r["density"]) == ("mnist_writers", recipe, density)
        ]
        return {r["seed"]: mb for r in cells if isinstance(mb := r["uplink_mb"], float)}

    dense, ours = by_seed("fedavg", None), by_seed("hedgerow", 0.1)
    seeds = dense.keys() & ours.keys()
    return sum(dense[seed] for seed in seeds) / sum(ours[seed] for seed in seeds) if seeds else None


def table(results: Sequence[Mapping[str, object]]) -> str:
    """Return a Markdown table: means over the seeds, and deviations of the accuracy where there are two."""
    lines = [
        "| data | recipe | density | seeds | accuracy after the last round | up to target, MB "
        "| down to target, MB | up in all, MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for result in results:
        groups.setdefault((result["pack"], result["recipe"], result["density"]), []).append(result)
    for (pack, recipe, density), found in sorted(groups.items(), key=str):
        finals = [float(str(result["final_accuracy"])) for result in found]
        spread = f" +- {statistics.stdev(finals):.4f}" if len(finals) > 1 else ""
        bytes_of = [_mean(found, key) for key in ("uplink_mb", "downlink_mb", "total_uplink_mb")]
        cells = [NAMES[str(pack)], recipe, density or 1, len(found), f"{statistics.mean(finals):.4f}{spread}"]
        lines.append("| " + " | ".join(map(str, [*cells, *bytes_of])) + " |")
    return "\n".join(lines)


def _mean(results: Sequence[Mapping[str, object]], key: str) -> str:
    """Return a mean to three digits, and how many runs never got there."""
    found = [float(str(result[key])) for result in results if result[key] is not None]
    missing = len(results) - len(found)
    text = f"{statistics.mean(found):#.3g}".rstrip(".") if found else ""
    return f"{text} (not reached: {missing})".strip() if missing else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print a table."""
    options = _options(arguments)
    folder = os.environ.get("HEDGEROW_DATA")
    missing = [p for p in options.packs if not folder or not Path(folder, f"{p}.npz").is_file()]
    if missing:
        print(f"set HEDGEROW_DATA to a folder with {missing[0]}.npz", file=sys.stderr)
        return 2
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        print("--plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    results = _known(options.json)
    done = {json.dumps([r[name] for name in Cell.__slots__]) for r in results}
    wanted = deque(c for c in cells(options) if json.dumps(list(asdict(c).values())) not in done)
    for result in _run_all(wanted, packs=Path(str(folder)), options=options):
        results.append(result)
        print(_row(result), flush=True)
        _write(options.json, results, rounds=options.rounds)
    compared = [result for result in results if result["rounds"] == options.rounds]
    print(table(compared))
    print(json.dumps({"summary": summary_of(compared)}, indent=2))
    _write(options.json, results, rounds=options.rounds)
    if options.plot:
        plot_pruning(compared, options.plot)
    if wanted:
        left = ", ".join(f"{NAMES[c.pack]} {c.recipe} {c.density or ''}".rstrip() for c in wanted)
        print(f"{options.minutes:g} minutes are too few for: {left}", file=sys.stderr)
        print("called again with the same --json, it goes on with these", file=sys.stderr)
    return 0


def _run_all(wanted: deque[Cell], *, packs: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield results as they come, of some runs at a time, each in a process of its own.

    What is left in `wanted` would not have ended in time, if it took as long as the slowest run so far.
    """
    begun, slowest_s = time.monotonic(), 0.0
    spawn = multiprocessing.get_context("spawn")
    works: dict[tuple[str, int], tuple[Path, dict[str, Path | None]]] = {}
    running: dict[Future[dict[str, object]], Cell] = {}
    with (
        tempfile.TemporaryDirectory(prefix="hedgerow-pruning-") as scratch,
        ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=_end_with_parent) as pool,
    ):
        try:
            while wanted or running:
                while wanted and len(running) < options.jobs:
                    if time.monotonic() - begun + slowest_s > 60 * options.minutes:
                        break
                    cell = wanted.popleft()
                    if (group := (cell.pack, cell.seed)) not in works:
                        work = Path(scratch, f"{cell.pack}-{cell.seed}")
                        works[group] = work, _prepare(work, pack=packs / f"{cell.pack}.npz", cell=cell)
                    work, folders = works[group]
                    future = pool.submit(run_cell, cell, work=work, folders=folders, workers=options.workers)
                    running[future] = cell
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    del running[future]
                    result = future.result()
                    slowest_s = max(slowest_s, float(str(result["wall_s"])))
                    yield result
                for group in works.keys() - {(cell.pack, cell.seed) for cell in (*running.values(), *wanted)}:
                    shutil.rmtree(works.pop(group)[0])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _prepare(work: Path, *, pack: Path, cell: Cell) -> dict[str, Path | None]:
    """Write the clients' data and the template; return the clients' folders by name."""
    folders = write_data(pack, work / "data", seed=cell.seed)
    files = {"name": "pruning", "min_clients": CLIENTS, "rounds": cell.rounds, "force": True}
    initialise(TASK, data=folders["client-0"], output=work, **files)
    return folders


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, whatever ended that one."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file, and keep those it has")
    parser.add_argument("--plot", type=Path, help="draw what the JSON file has; needs matplotlib")
    parser.add_argument("--full", action="store_true", help="all packs, recipes, densities and seeds")
    parser.add_argument("--packs", nargs="+", choices=sorted(TARGETS))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES))
    parser.add_argument("--densities", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--minutes",
        type=float,
        help="begin no run that would end later (15, or no limit with one of the options above)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="runs at the same time (as many as cores, at most 8)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="clients of a run that train at the same time (1)"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.jobs, options.workers) < 1:
        parser.error("--rounds, --jobs and --workers must be at least 1")
    if options.minutes is not None and not options.minutes > 0:
        parser.error("--minutes must be above 0")
    full = options.full
    chosen = options.packs or options.recipes or options.densities or options.seeds
    if options.minutes is None:
        options.minutes = math.inf if full or chosen else 15.0
    options.packs = options.packs or (["mnist_writers"] if chosen and not full else list(NAMES))
    options.recipes = options.recipes or (list(RECIPES) if full else ["hedgerow", "fedavg", "feddst"])
    options.seeds = options.seeds or (list(SEEDS) if full else [42])
    few = {recipe: [0.2, 0.1, 0.05] if recipe == "hedgerow" else [0.2] for recipe in RECIPES}
    every = options.densities or (list(DENSITIES) if full else None)
    options.densities = dict.fromkeys(RECIPES, every) if every else few
    return options


def _known(path: Path | None) -> list[dict[str, object]]:
    if path is None or not path.is_file():
        return []
    try:
        results = json.loads(path.read_bytes())["results"]
        return [result for result in results if result.keys() >= {*Cell.__slots__, "uplink_mb_by_round"}]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{path} is not a file of this benchmark ({error}): name another one") from error


def _write(path: Path | None, results: Sequence[Mapping[str, object]], *, rounds: int) -> None:
    if path is not None:
        summary = summary_of([result for result in results if result["rounds"] == rounds])
        path.write_text(json.dumps({"results": results, "summary": summary}, indent=2) + "\n")


def _row(result: Mapping[str, object]) -> str:
    to_target = "not reached" if result["uplink_mb"] is None else f"{result['uplink_mb']:.3f} MB"
    return (
        f"{result['pack']:<14} {result['recipe']:<10} "
        f"density {result['final_density']:.3f}  seed {result['seed']:>3}  "
        f"final {result['final_accuracy']:.4f}  up to target {to_target}  "
        f"up in all {result['total_uplink_mb']:.2f} MB  {result['wall_s']} s"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; a JSON file keeps the runs that are done")
