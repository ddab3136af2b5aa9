"""Run a whole federation on this machine, without a broker, the same each time for a seed.

The coordinator and the client sessions are those of the real thing; only the link is in memory. Each folder
in --data is a client of that name; without folders, --clients gives their number and all share --data.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from hedgerow.console import say
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode
from hedgerow_transport import check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("plan", type=Path, help="the plan.toml")
    parser.add_argument("--task", metavar="FILE", type=Path, required=True, help="the task file")
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder with one folder for each client, or shared by all"
    )
    parser.add_argument(
        "--clients", metavar="N", type=int, help="number of clients; default: the folders in --data"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=os.cpu_count() or 1,
        help="clients that train at a time; default: %(default)s",
    )
    parser.add_argument(
        "--run-dir", metavar="FOLDER", type=Path, help="where to keep the run; default: it is not kept"
    )


def run(options: argparse.Namespace) -> int:
    """Simulate, and say what came out."""
    from hedgerow.simulating import simulate
    from hedgerow_coordinator import load_plan

    if options.workers < 1:
        raise UsageError(f"--workers must be at least 1, not {options.workers}")
    plan = load_plan(options.plan)
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as scratch:
        facts = simulate(
            plan,
            task=options.task,
            clients=client_folders(options.data, options.clients),
            run_dir=options.run_dir or Path(scratch, "run"),
            workers=options.workers,
            say=say,
        )
    if facts.failure:
        say(f"the run failed: {facts.failure}")
        return ExitCode.RUN_FAILED
    measured = "not measured (no test data)" if facts.metric is None else f"{facts.metric:.4f}"
    if facts.personal_metric is not None:
        measured += f" (mean of the clients' own models {facts.personal_metric:.4f})"
    say(
        f"finished: {plan.evaluate.metric} {measured}, density {facts.density:.3f}, "
        f"weights {facts.weights_digest}"
    )
    say(
        f"bytes up {facts.uplink_bytes:,}, down {facts.downlink_bytes:,} "
        f"(the coordinator sent {facts.broadcast_bytes:,})"
    )
    return ExitCode.DONE


def client_folders(data: Path | None, clients: int | None) -> dict[str, Path | None]:
    """Return the data folder of each client by its name.

    Raises
    ------
    hedgerow.errors.UsageError
        When neither folders nor a number tell who the clients are.
    """
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data} is not a folder")
    folders = [] if data is None else sorted(path for path in data.iterdir() if _is_client(path))
    for folder in folders:
        check_name(folder.name, what=f"the folder {folder} cannot be a client's: its name")
    if clients is None:
        if not folders:
            raise UsageError("say how many clients with --clients, or give --data with a folder for each")
        return {path.name: path for path in folders}
    if clients < 1:
        raise UsageError(f"--clients must be at least 1, not {clients}")
    if folders and clients > len(folders):
        raise UsageError(f"--clients is {clients}, but {data} has {len(folders)} folders")
    if folders:
        return {path.name: path for path in folders[:clients]}
    return {f"client-{number}": data for number in range(clients)}


def _is_client(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__"))
