"""Benchmark B1: bytes to accuracy, 5 clients, MNIST with a Dirichlet(0.3) label split, 20 rounds.

The same coordinator and client sessions as in a real run, over the in-memory link; bytes are whole MQTT
PUBLISH packets of every kind (frames, chunks, manifests, offers, acks). Data comes from the folder
that HEDGEROW_DATA names. A seed takes 4 to 10 minutes for each method on two cores. A run that was cut short
goes on when it is started again: what the JSON file has already, with the same settings, is not run again.

    HEDGEROW_DATA=... python -m benchmarks.b1 --json b1.json --seeds 7 13 21 42 100
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hedgerow.initialise import initialise
from hedgerow.partition import dirichlet_split
from hedgerow.simulating import SimulationFacts, simulate
from hedgerow_coordinator import load_plan

TASK = Path(__file__).with_name("b1_task.py")
SEEDS = (7, 13, 21, 42, 100)
CLIENTS = 5
ROUNDS = 20
TARGETS = {"mnist_writers": 0.85, "fashion_mnist": 0.70}

COMMON = """\
[run]
name = "b1"
rounds = {rounds}
seed = {seed}

[cohort]
min_clients = {clients}
quorum = 1.0

[training]
epochs = 1
batch_size = 64
learning_rate = 0.01

[evaluate]
data = "evaluate.npz"

[pruning]
policy = "none"

"""

METHODS = {
    "hedgerow": """\
[aggregation]
server_momentum = {momentum}

[codec]
residual_decay = {residual_decay}

[codec.uplink]
codec_id = "deadzone"
step = {step}

[codec.downlink]
codec_id = "deadzone"
step = {down_step}
""",
    "dense": """\
[codec.uplink]
codec_id = "float32"

[codec.downlink]
codec_id = "float32"
""",
}


def write_data(pack_path: Path, directory: Path, *, seed: int) -> dict[str, Path | None]:
    """Split a pack among the clients; return their folders by name."""
    with np.load(pack_path, allow_pickle=False) as pack:
        x_train, y_train, x_test, y_test = (pack[n] for n in ("x_train", "y_train", "x_test", "y_test"))
    directory.mkdir(parents=True)
    np.savez(directory / "test.npz", inputs=_scaled(x_test), targets=y_test.astype(np.int64))
    folders: dict[str, Path | None] = {}
    parts = dirichlet_split(y_train, num_clients=CLIENTS, alpha=0.3, seed=seed, min_samples=100)
    for number, part in enumerate(parts):
        folder = directory / f"client-{number}"
        folder.mkdir()
        np.savez(folder / "train.npz", inputs=_scaled(x_train[part]), targets=y_train[part].astype(np.int64))
        folders[folder.name] = folder
    return folders


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / 255.0).reshape(len(images), 1, 28, 28)


def run_method(
    text: str, work: Path, folders: dict[str, Path | None], *, workers: int, label: str = ""
) -> SimulationFacts:
    """Run one plan; return its facts. What it says begins with the label."""
    with (
        tempfile.NamedTemporaryFile("w", dir=work, prefix="plan-", suffix=".toml") as plan,
        tempfile.TemporaryDirectory(prefix="hedgerow-b1-") as scratch,
    ):
        plan.write(text)
        plan.flush()
        return simulate(
            load_plan(Path(plan.name)),
            task=TASK,
            clients=folders,
            run_dir=Path(scratch, "run"),
            workers=workers,
            say=lambda sentence: print(f"    {label}{sentence}", file=sys.stderr, flush=True),
        )


def bytes_to_target(facts: SimulationFacts, target: float) -> dict[str, float | None]:
    """Return MB until the target is met: up from all clients, broadcast once, and down over all receivers."""
    up = sent = down = 0
    for record in facts.rounds:
        up, sent = up + record.uplink_bytes, sent + record.broadcast_bytes
        # What a client reports with an update is what it received for this round's start.
        down += record.delivered_bytes
        if record.accuracy is not None and record.accuracy >= target:
            return {"uplink_mb": up / 1e6, "broadcast_mb": sent / 1e6, "downlink_mb": down / 1e6}
    return {"uplink_mb": None, "broadcast_mb": None, "downlink_mb": None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.b1", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file, and keep those it has")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--pack", choices=sorted(TARGETS), default="mnist_writers")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=sorted(METHODS))
    parser.add_argument(
        "--step",
        type=float,
        nargs=2,
        default=[8.0, 0.25],
        metavar=("FIRST", "LAST"),
        help="uplink step of the codec in the first and in the last round, in RMS of an update",
    )
    parser.add_argument(
        "--down-step",
        type=float,
        nargs=2,
        default=[8.0, 0.25],
        metavar=("FIRST", "LAST"),
        help="the same for the way down",
    )
    parser.add_argument("--momentum", type=float, default=0.5, help="of the server, for hedgerow")
    parser.add_argument("--residual-decay", type=float, default=0.5, help="of the clients, for hedgerow")
    parser.add_argument("--workers", type=int, default=2, help="clients that train at the same time")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    folder = os.environ.get("HEDGEROW_DATA")
    if not folder or not Path(folder, f"{options.pack}.npz").is_file():
        print(f"set HEDGEROW_DATA to a folder with {options.pack}.npz", file=sys.stderr)
        return 2
    known = _known_results(options.json)
    results: list[dict[str, object]] = []
    for seed in options.seeds:
        wanted = [_settings(method, options, seed=seed) for method in options.methods]
        found = [known[key] for key in map(_key, wanted) if key in known]
        results += found
        missing = [w for w in wanted if _key(w) not in known]
        if not missing:
            continue
        with tempfile.TemporaryDirectory(prefix="hedgerow-b1-") as scratch:
            work = Path(scratch)
            folders = write_data(Path(folder, f"{options.pack}.npz"), work / "data", seed=seed)
            first = folders["client-0"]
            options_of_init = {"name": "b1", "min_clients": CLIENTS, "rounds": options.rounds, "force": True}
            initialise(TASK, data=first, output=work, **options_of_init)
            for settings in missing:
                results.append(_one(settings, work=work, folders=folders, workers=options.workers))
                known[_key(settings)] = results[-1]
                print(json.dumps(results[-1]), flush=True)
                _write_json(options.json, list(known.values()), _summary(results))
    summary = _summary(results)
    print(json.dumps({"summary": summary}, indent=2))
    _write_json(options.json, list(known.values()), summary)
    return 0


def _settings(method: str, options: argparse.Namespace, *, seed: int) -> dict[str, object]:
    settings: dict[str, object] = {
        "pack": options.pack,
        "method": method,
        "seed": seed,
        "rounds": options.rounds,
    }
    if method == "hedgerow":
        names = ("step", "down_step", "momentum", "residual_decay")
        settings |= {name: getattr(options, name) for name in names}
    return settings


def _key(result: Mapping[str, object]) -> str:
    names = ("pack", "method", "seed", "rounds", "step", "down_step", "momentum", "residual_decay")
    return json.dumps([result.get(name) for name in names])


def _known_results(path: Path | None) -> dict[str, dict[str, object]]:
    if path is None or not path.is_file():
        return {}
    try:
        return {_key(result): result for result in json.loads(path.read_bytes())["results"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is not a file of this benchmark ({error}): name another one") from error


def _write_json(
    path: Path | None, results: Sequence[Mapping[str, object]], summary: Mapping[str, object]
) -> None:
    if path is not None:
        path.write_text(json.dumps({"results": results, "summary": summary}, indent=2) + "\n")


def _one(
    settings: Mapping[str, object], *, work: Path, folders: dict[str, Path | None], workers: int
) -> dict[str, object]:
    started = time.monotonic()
    text = (COMMON + METHODS[str(settings["method"])]).format(clients=CLIENTS, **settings)
    facts = run_method(text, work, folders, workers=workers)
    return {
        **settings,
        **bytes_to_target(facts, TARGETS[str(settings["pack"])]),
        "final_accuracy": facts.metric,
        "accuracies": [record.accuracy for record in facts.rounds],
        "total_uplink_mb": facts.uplink_bytes / 1e6,
        "total_broadcast_mb": facts.broadcast_bytes / 1e6,
        "total_downlink_mb": facts.downlink_bytes / 1e6,
        "wall_s": round(time.monotonic() - started, 1),
    }


def _summary(results: Sequence[dict[str, object]]) -> dict[str, float | None]:
    def mean(method: str, key: str) -> float | None:
        values = [r[key] for r in results if r["method"] == method]
        numbers = [v for v in values if isinstance(v, float)]
        # A seed that never got there makes the mean meaningless.
        return statistics.mean(numbers) if numbers and len(numbers) == len(values) else None

    return {
        "uplink_mb_to_85": mean("hedgerow", "uplink_mb"),
        "downlink_mb_to_85": mean("hedgerow", "downlink_mb"),
        "broadcast_mb_to_85": mean("hedgerow", "broadcast_mb"),
        "final_accuracy": mean("hedgerow", "final_accuracy"),
        "dense_final_accuracy": mean("dense", "final_accuracy"),
    }


if __name__ == "__main__":
    sys.exit(main())
