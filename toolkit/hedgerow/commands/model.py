"""Say which delivered model a device uses, or put the one before it back.

Works beside a running client. `model.onnx` in the state directory's folder `delivery` is the model in use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument(
        "--state-dir", metavar="FOLDER", type=Path, help="the client's; default: ~/.local/share/hedgerow/NAME"
    )
    parser.add_argument("--name", help="the client's name; default: the host's name")
    parser.add_argument(
        "--back", action="store_true", help="use the model before the one in use; once more undoes it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def run(options: argparse.Namespace) -> int:
    """Look at the shelf, or change what is in use."""
    from hedgerow_edge_client.model_shelf import FOLDER, LINK, ModelShelf

    directory = state_directory(options.state_dir, options.name)
    shelf = ModelShelf(directory)
    if options.back:
        shelf.back()
    found = shelf.look()
    reports = [
        report for report in found.reports if report.model == found.current and report.purpose == "use"
    ]
    if options.json:
        told = {
            "in_use": found.current.hex() or None,
            "before": found.previous.hex() or None,
            "path": str(directory / FOLDER / LINK) if found.current else None,
            "measured": {name: value for report in reports for name, value in report.numbers.items()},
        }
        print(json.dumps(told, indent=2))
        return ExitCode.DONE
    for warning in shelf.warnings:
        print(warning)
    if not found.current:
        print(f"no model is in use in {directory}")
        return ExitCode.DONE
    print(f"in use: {found.current.hex()}, {directory / FOLDER / LINK}")
    for report in reports[-1:]:
        numbers = report.numbers
        if "after" in numbers:
            print(f"it had {report.metric} {numbers['after']:.4f} on {numbers.get('samples', 0):.0f} samples")
    if found.previous:
        print(f"before: {found.previous.hex()}; --back puts it in use")
    return ExitCode.DONE


def state_directory(directory: Path | None, name: str | None) -> Path:
    """Return a client's state directory that has had a model delivered.

    Raises
    ------
    hedgerow.errors.UsageError
        When there is none.
    """
    from hedgerow.commands.client import default_state_directory
    from hedgerow_edge_client.model_shelf import ModelShelf

    found = directory or default_state_directory(name)
    if not ModelShelf.is_in(found):
        raise UsageError(f"no model has been delivered to {found}: is it the client's --state-dir?")
    return found
