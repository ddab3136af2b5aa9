"""Watch a federation train, prune and export on this machine, in under two minutes.

Starts a broker, a coordinator and clients as real processes that talk MQTT, on handwritten digits; then runs the
same rounds as dense float32 FedAvg, and says how the two compare.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hedgerow.console import stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("--broker", help="use this broker, for example mqtt://localhost:1883; default: start one")
    parser.add_argument("--clients", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=25, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run dense float32 FedAvg; default: yes",
    )
    parser.add_argument("--output", type=Path, help="new folder for all that comes out; default: hedgerow-demo/TIME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the facts as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the demo and print what came out."""
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise UsageError("the demo needs more packages: pip install 'hedgerow[demo]'") from error
    from hedgerow.demo.demo import DemoSettings, Interrupted, run_demo
    from hedgerow.demo.summary import print_summary

    if not 1 <= options.clients <= 20:
        raise UsageError(f"--clients must be from 1 to 20, not {options.clients}")
    if not 2 <= options.rounds <= 1000:
        raise UsageError(f"--rounds must be from 2 to 1000, not {options.rounds}")
    if options.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {options.seed}")
    directory = options.output or Path("hedgerow-demo", time.strftime("%Y%m%d-%H%M%S"))
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is there already: give --output another folder")
    settings = DemoSettings(
        broker=options.broker,
        directory=directory,
        clients=options.clients,
        rounds=options.rounds,
        seed=options.seed,
        compare=options.compare,
    )
    try:
        facts = run_demo(settings, stop=stop_on_signals())
    except Interrupted:
        print(f"stopped; all processes have ended, what there was is kept in {directory}", flush=True)
        return ExitCode.INTERRUPTED
    print_summary(facts, directory=directory)
    if options.json is not None:
        options.json.write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    return ExitCode.DONE
