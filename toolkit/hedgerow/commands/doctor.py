"""Check whether this machine can be a device or a gateway.

Exit code 0 when nothing failed, else 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("--broker", help="also check this broker, mqtt://[user:password@]host[:port]")
    parser.add_argument("--data", type=Path, help="where state will be kept; default: the current folder")
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 -- nothing is checked yet
    """Run the checks."""
    return ExitCode.DONE
