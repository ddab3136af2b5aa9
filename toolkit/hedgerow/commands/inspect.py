"""Say what a file or a run directory holds, recognised by its content and not by its name.

Known are the frames of updates, models and masks, messages and chunks, checkpoints, ONNX models and
templates, plans, .npz test data, what a client keeps, and run directories.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("path", type=Path, metavar="FILE|RUN", help="a file or a run directory")
    parser.add_argument("--json", action="store_true", help="print JSON: digests whole, every tensor")


def run(options: argparse.Namespace) -> int:
    """Describe the file."""
    from hedgerow.inspection import inspect_path

    found = inspect_path(options.path)
    if options.json:
        print(json.dumps({"path": str(options.path), **found.to_json()}, indent=2, default=str))
    else:
        print(found.to_text())
    return ExitCode.DONE
