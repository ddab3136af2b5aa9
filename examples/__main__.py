"""Run an example: its plan, and the same rounds without pruning and in float32, in memory on this machine.

HEDGEROW_DATA=... python -m examples wisdm
"""

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path

from hedgerow.initialise import initialise
from hedgerow.simulating import SimulationFacts, simulate
from hedgerow_coordinator import load_plan
from hedgerow_coordinator.settings import write_tables
from hedgerow_edge_client import EdgeClientError

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
DENSE = {
    "codec": {"uplink": {"codec_id": "float32"}, "downlink": {"codec_id": "float32"}},
    "pruning": {"policy": "none"},
}


def run(name: str, *, rounds: int | None, workers: int) -> dict[str, dict[str, object]]:
    """Run an example both ways; return what came of each, by name."""
    tables = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    if rounds:
        tables["run"]["rounds"] = rounds
        for key in ("start_round", "end_round"):
            tables["pruning"][key] = min(tables["pruning"][key], rounds)
    task, clients = FOLDER / f"{name}.py", int(tables["cohort"]["min_clients"])
    folders: dict[str, Path | None] = {f"client-{number}": None for number in range(clients)}
    results = {}
    with tempfile.TemporaryDirectory(prefix="hedgerow-example-") as scratch:
        work = Path(scratch)
        files = {"name": name, "min_clients": clients, "rounds": 1, "force": False}
        initialise(task, data=None, output=work, **files)
        for method, plan in (("hedgerow", tables), ("dense float32", tables | DENSE)):
            print(f"{name}: {method}", file=sys.stderr)
            (work / "plan.toml").write_text(write_tables(plan))
            facts = simulate(
                load_plan(work / "plan.toml"),
                task=task,
                clients=folders,
                run_dir=work / method,
                workers=workers,
                say=lambda sentence: print(f"    {sentence}", file=sys.stderr),
            )
            results[method] = _result(facts, metric=tables["evaluate"]["metric"])
    return results


def _result(facts: SimulationFacts, *, metric: str) -> dict[str, object]:
    if facts.failure:
        raise SystemExit(f"the run failed: {facts.failure}")
    return {
        metric: None if facts.metric is None else round(facts.metric, 4),
        "density": round(facts.density, 3),
        "bytes up": facts.uplink_bytes,
        "bytes down": facts.downlink_bytes,
        "rounds": len(facts.rounds),
    }


def main() -> int:
    """Run one example and print a table."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--rounds", type=int, help="instead of the plan's; pruning ends with them")
    parser.add_argument("--workers", type=int, default=2, help="clients that train at a time")
    options = parser.parse_args()
    try:
        results = run(options.name, rounds=options.rounds, workers=options.workers)
    except EdgeClientError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 4
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    for key in results["hedgerow"]:
        row = "".join(f"{result[key]:>22,}" for result in results.values())
        print(f"{key:<12}{row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
