"""One process of a light federation: ``python -m benchmarks.light coordinator|client ...``."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from benchmarks.light.agents import lead, take_part
from benchmarks.light.trainer import LightTrainer, light_layout

from hedgerow_coordinator import load_plan
from hedgerow_transport import Credentials


def main(arguments: list[str] | None = None) -> int:
    """Run to the end of the run; return 0 when it has finished."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.light")
    parser.add_argument("role", choices=["coordinator", "client"])
    parser.add_argument("--broker", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="with plan.toml, and for all that is kept")
    parser.add_argument("--parameters", type=int, default=2048)
    parser.add_argument("--name", default="client")
    parser.add_argument("--train-s", type=float, default=0.0)
    options = parser.parse_args(arguments)
    say = functools.partial(print, flush=True)
    if options.role == "coordinator":
        outcome = lead(
            load_plan(options.folder / "plan.toml"),
            broker=options.broker,
            run_dir=options.folder / "run",
            num_parameters=options.parameters,
            say=say,
            credentials=_credentials(options.folder / "keys" / "coordinator"),
        )
        return 0 if outcome.finished else 1
    leave = take_part(
        options.name,
        broker=options.broker,
        folder=options.folder,
        trainer=LightTrainer(light_layout(options.parameters), train_s=options.train_s),
        say=say,
        credentials=_credentials(options.folder / "keys" / "devices" / options.name),
    )
    return 0 if leave is not None and not leave.failed else 1


def _credentials(folder: Path) -> Credentials | None:
    """Return what `hedgerow keys` has made beside the plan; None leaves messages unsigned."""
    return Credentials.load(folder) if folder.exists() else None


if __name__ == "__main__":
    sys.exit(main())
