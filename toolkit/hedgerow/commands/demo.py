"""Watch a federation train, prune and export on this machine, in under two minutes.

Starts a broker, a coordinator and clients as real processes that talk MQTT, on handwritten digits; then runs
the same rounds as dense float32 FedAvg, and says how the two compare.
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
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="use this broker, such as mqtt://localhost:1883; default: start one for the demo",
    )
    parser.add_argument("--clients", metavar="N", type=int, default=5, help="1 to 20; default: %(default)s")
    parser.add_argument("--rounds", metavar="N", type=int, default=25, help="from 2; default: %(default)s")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=7, help="of split and training; default: %(default)s"
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run dense float32 FedAvg; default: yes",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="new folder for all that comes out; default: hedgerow-demo/TIME",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=Path("-"),
        type=Path,
        metavar="FILE",
        help="write the facts as JSON; without FILE to stdout, and everything else to stderr",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo and print what came out."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise UsageError("the demo needs more packages: pip install 'hedgerow[demo]'") from error
    from hedgerow.demo.demo import DemoSettings, Interrupted, run_demo
    from hedgerow.demo.summary import print_summary
    from hedgerow_transport import BrokerUrl

    if not 1 <= options.clients <= 20:
        raise UsageError(f"--clients must be from 1 to 20, not {options.clients}")
    if not 2 <= options.rounds <= 1000:
        raise UsageError(f"--rounds must be from 2 to 1000, not {options.rounds}")
    if options.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {options.seed}")
    if options.broker is not None:
        BrokerUrl.parse(options.broker)
    directory = options.output or Path("hedgerow-demo", time.strftime("%Y%m%d-%H%M%S"))
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} is there already: give --output another folder")
    settings = DemoSettings(
        broker=options.broker,
        directory=directory,
        clients=options.clients,
        rounds=options.rounds,
        seed=options.seed,
        compare=options.compare,
    )
    quiet = options.json == Path("-")
    console = Console(highlight=False, stderr=quiet)
    with stop_on_signals() as stop:
        try:
            facts = run_demo(settings, console=console, stop=stop)
        except (Interrupted, KeyboardInterrupt):
            console.print(
                f"stopped; all processes have ended, what there was is kept in {directory}", soft_wrap=True
            )
            return ExitCode.INTERRUPTED
    print_summary(facts, directory=directory, console=console)
    if options.json is not None:
        text = json.dumps(facts.to_json(), indent=2)
        if quiet:
            print(text)
        else:
            options.json.write_text(text + "\n")
    return ExitCode.DONE
