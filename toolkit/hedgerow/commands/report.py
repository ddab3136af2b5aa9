"""Write one HTML page about a run: accuracy, bytes on the wire, density, clients.

Everything on the page comes from the run's journal; what was not measured is said to be so. The page needs no
network and no script. It can be written while the run is going on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("-o", "--output", type=Path, help="the page to write; default: RUN/report.html")


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    from hedgerow.report import collect_facts, render_page, write_page
    from hedgerow.runs import open_finished_rounds

    with open_finished_rounds(options.run) as store:
        facts = collect_facts(store)
    output = options.output or options.run / "report.html"
    write_page(render_page(facts, now=time.time()), path=output)
    print(f"wrote {output}: run '{facts.run_id}', {len(facts.committed)} of {facts.planned_rounds} rounds")
    return ExitCode.DONE
