"""Runs the codec benchmark; see docs/benchmarks/codec.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.codec.cases import chosen
from benchmarks.codec.nnc import NncodecBytes
from benchmarks.codec.record import recorded
from benchmarks.codec.tables import TARGETS_DB, rate_summary, rate_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/hedgerow/benchmarks-codec")
    parser.add_argument(
        "--rate-only", action="store_true", help="only the table of bytes at equal distortion"
    )
    parser.add_argument("--cases", nargs="+", help="parts of the names of cases, such as cnn or /raw")
    parser.add_argument("--snr", type=float, nargs="+", default=TARGETS_DB, help="in decibels")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="settings of the codec")
    options = parser.parse_args(arguments)
    folder = os.environ.get("HEDGEROW_DATA")
    settings = {name: float(value) for name, _, value in (each.partition("=") for each in options.set)}
    try:
        cases = chosen(recorded(options.cache, data=Path(folder) if folder else None), options.cases)
    except ValueError as error:
        print(f"benchmarks.codec: {error}", file=sys.stderr)
        return 2
    try:
        peer = NncodecBytes.open(options.cache)
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        peer = None
    cells = rate_table(cases, targets_db=options.snr, settings=settings, peer=peer)
    summary = rate_summary(cells)
    print(json.dumps({"summary": summary}, indent=2))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"cells": [c.to_json() for c in cells], "summary": summary}, indent=2)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
