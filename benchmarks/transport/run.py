"""The command line: measures the parts, keeps what is measured, and writes the summary."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.transport import broadcast, idle, resets, rounds, uplink
from benchmarks.transport.table import table_of

Part = Callable[[], dict[str, Any]]
# Each with the plain one-message way, where there is one.
PARTS: dict[str, tuple[Part, Part | None]] = {
    "broadcast": (broadcast.measure, broadcast.measure_plain),
    "idle": (idle.measure, None),
    "rounds": (rounds.measure, rounds.measure_plain),
    "uplink": (uplink.measure, uplink.measure_plain),
    "resets": (resets.measure, resets.measure_plain),
}
SUMMARY = (
    ("coordinator_egress_ratio", "broadcast", "coordinator_egress_ratio"),
    ("broker_peak_rss_mib", "broadcast", "broker_peak_rss_mib"),
    ("idle_bytes_per_client_min", "idle", "idle_bytes_per_client_min"),
    ("coordinator_rss_mib", "idle", "coordinator_rss_mib"),
    ("round_overhead_s", "rounds", "round_overhead_s"),
    ("round_overhead_without_disk_s", "rounds", "round_overhead_without_disk_s"),
    ("uplink_ratio", "uplink", "uplink_ratio"),
    ("uplink_s", "uplink", "seconds"),
    ("uplink_broker_peak_rss_mib", "uplink", "broker_peak_rss_mib"),
    ("reset_link_overhead", "resets", "reset_link_overhead"),
)


def summary_of(parts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the numbers that matter, each beside that of the plain way in the same run."""
    summary: dict[str, Any] = {}
    for name, part, key in SUMMARY:
        measured = parts.get(part, {})
        if "hedgerow" in measured:
            summary[name] = measured["hedgerow"][key]
        if key in measured.get("plain", {}):
            summary[f"plain_{name}"] = measured["plain"][key]
    return summary


def main() -> int:
    """Measure what was asked for; parts that the file has already are kept, so that a run can go on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--part", choices=sorted(PARTS), action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--again", action="store_true", help="measure also what the file has already")
    options = parser.parse_args()
    record: dict[str, Any] = {"parts": {}}
    if options.json.exists():
        record = json.loads(options.json.read_text())
    for name in options.part or PARTS:
        for way, measure in zip(("hedgerow", "plain"), PARTS[name], strict=True):
            measured = record["parts"].setdefault(name, {})
            if measure is None or (way in measured and not options.again):
                continue
            print(f"{name}, {way}", flush=True)
            load = os.getloadavg()[0]
            measured[way] = {**measure(), "load_before": load}
            print(f"  {measured[way]}", flush=True)
            record["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
            record["measured"] = time.strftime("%Y-%m-%d", time.gmtime())
            record["summary"] = summary_of(record["parts"])
            options.json.write_text(json.dumps(record, indent=2) + "\n")
    print(table_of(record.get("summary", {})))
    return 0
