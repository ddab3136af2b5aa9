"""Lead a run on the gateway: publish the model, take in updates, prune, commit.

The same command, started again after a stop or a power cut, goes on after the last committed round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.access import add_access_arguments, read_access
from hedgerow.console import say, stop_on_signals
from hedgerow.exit_codes import ExitCode
from hedgerow.runs import read_template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("plan", type=Path, help="the plan.toml that `hedgerow init` wrote")
    parser.add_argument(
        "--broker",
        metavar="URL",
        default="mqtt://localhost:1883",
        help="mqtt://[user:password@]host[:port], or mqtts:// for TLS; default: %(default)s",
    )
    parser.add_argument(
        "--run-dir",
        metavar="FOLDER",
        type=Path,
        help="where the run is kept; default: runs/NAME beside the plan",
    )
    parser.add_argument(
        "--wait", action="store_true", help="keep trying while the broker is away at the start"
    )
    add_access_arguments(parser, maker="`hedgerow keys init` (its folder coordinator)")


def run(options: argparse.Namespace) -> int:
    """Lead the run until its end or a signal."""
    from hedgerow_coordinator import CoordinatorAgent, load_plan, open_run
    from hedgerow_transport import BrokerUrl

    access = read_access(options, role="coordinator")
    place = BrokerUrl.parse(access.broker).place
    plan = load_plan(options.plan)
    template, layout = read_template(plan)
    directory = options.run_dir or plan.directory / "runs" / plan.run.name
    with stop_on_signals() as stop, open_run(plan, directory=directory, template=template) as store:
        say(f"run '{store.run_id}' in {directory}, {layout.num_parameters:,} parameters, broker {place}")
        for warning in access.warnings:
            say(warning)
        agent = CoordinatorAgent(
            plan,
            broker=access.broker,
            store=store,
            layout=layout,
            say=say,
            credentials=access.credentials,
            wait_for_broker=options.wait,
        )
        try:
            outcome = agent.run(stop)
        except KeyboardInterrupt:
            outcome = None
        rounds = sum(record.status == "committed" and record.round > 0 for record in store.rounds())
    if outcome is not None and outcome.failure:
        say(f"the run failed: {outcome.failure}")
        return ExitCode.RUN_FAILED
    if outcome is None or not outcome.finished:
        say(
            f"stopped; {rounds} of {plan.run.rounds} rounds are kept in {directory}: "
            "the same command goes on from there"
        )
        return ExitCode.INTERRUPTED
    say(f"finished: {plan.run.rounds} rounds in {directory}; next: hedgerow export {directory} -o model.onnx")
    return ExitCode.DONE
