"""Write one HTML page about a run: accuracy, bytes on the wire, density, clients.

Everything on the page comes from the run's journal; what was not measured is said to be so. The page needs no
network and no script. It can be written while the run is going on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("-o", "--output", type=Path, help="the page to write; default: RUN/report.html")


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 -- the page is not written yet
    """Write the page."""
    return ExitCode.DONE
