"""Make a plan and an ONNX template from a task file.

Writes plan.toml, template.onnx and, where the task has test data, evaluate.npz. Copy the folder to the gateway:
nothing else is needed there, and no torch.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hedgerow.console import say
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("task", type=Path, help="Python file with build_model, load_data and loss")
    parser.add_argument("--data", type=Path, help="folder handed to load_data and load_test_data")
    parser.add_argument("--output", type=Path, default=Path("."), help="where to write; default: here")
    parser.add_argument("--name", help="name of the run; default: the task file's name")
    parser.add_argument("--clients", type=int, default=2, help="clients to wait for; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Write the files."""
    from hedgerow.initialise import initialise

    name = options.name or re.sub(r"[^a-z0-9_-]", "-", options.task.stem.lower()).strip("-_")[:32]
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    say(f"reading {options.task} and exporting its model; the first time takes some seconds")
    written = initialise(
        options.task,
        data=options.data,
        output=options.output,
        name=name,
        min_clients=options.clients,
        rounds=options.rounds,
        force=options.force,
    )
    for path, meaning in written:
        say(f"wrote {path}: {meaning}")
    say(f"next: hedgerow coordinator {options.output / 'plan.toml'} --broker mqtt://localhost:1883")
    return ExitCode.DONE
