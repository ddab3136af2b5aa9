"""Lead a run on the gateway: publish the model, take in updates, prune, commit.

The same command, started again after a stop or a power cut, goes on after the last committed round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.console import say, stop_on_signals
from hedgerow.exit_codes import ExitCode
from hedgerow.runs import read_template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("plan", type=Path, help="the plan.toml that `hedgerow init` wrote")
    parser.add_argument("--broker", default="mqtt://localhost:1883", help="default: %(default)s")
    parser.add_argument("--run-dir", type=Path, help="where the run is kept; default: runs/NAME beside the plan")


def run(options: argparse.Namespace) -> int:
    """Lead the run until its end or a signal."""
    from hedgerow_coordinator import CoordinatorAgent, load_plan, open_run
    from hedgerow_export import template_layout

    plan = load_plan(options.plan)
    template = read_template(plan)
    layout = template_layout(template)
    directory = options.run_dir or plan.directory / "runs" / plan.run.name
    stop = stop_on_signals()
    with open_run(plan, directory=directory, template=template) as store:
        say(f"run '{store.run_id}' in {directory}, {layout.num_parameters:,} parameters, {options.broker}")
        agent = CoordinatorAgent(plan, broker=options.broker, store=store, layout=layout, say=say)
        outcome = agent.run(stop)
    if outcome.failure:
        say(f"the run failed: {outcome.failure}")
        return ExitCode.RUN_FAILED
    if not outcome.finished:
        say(
            f"stopped; {outcome.version} of {plan.run.rounds} rounds are kept in {directory}: "
            "the same command goes on from there"
        )
        return ExitCode.INTERRUPTED
    say(f"finished: {plan.run.rounds} rounds in {directory}; next: hedgerow export {directory} -o model.onnx")
    return ExitCode.DONE
