"""Say what a file or a run directory holds, recognised by its content and not by its name."""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("path", type=Path, metavar="FILE|RUN", help="a file or a run directory")
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 -- nothing is recognised yet
    """Describe the file."""
    return ExitCode.DONE
