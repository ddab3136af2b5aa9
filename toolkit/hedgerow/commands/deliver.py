"""Deliver an exported model to the devices: each tries it on its own data, and takes it or stays.

Clients that run fetch the file in chunks, also over bad links and restarts, and try it between rounds, in a
process of its own. A model that is worse than the one in use by more than --max-drop, or that cannot be run,
is not taken; whatever happens, the last good one stays. The same call again costs little and says the same.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.access import add_access_arguments, read_access
from hedgerow.console import say, stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

if TYPE_CHECKING:
    from hedgerow_coordinator import DeliveryOutcome, DeliveryRow, DeliverySettings

_GOOD = {"use": "accepted", "calibrate": "measured"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("model", type=Path, help="an ONNX file that `hedgerow export` wrote")
    parser.add_argument(
        "--broker",
        metavar="URL",
        default="mqtt://localhost:1883",
        help="mqtt://[user:password@]host[:port], or mqtts:// for TLS; default: %(default)s",
    )
    parser.add_argument(
        "--namespace", default="default", help="[transport] namespace of the plan; default: %(default)s"
    )
    parser.add_argument(
        "--devices",
        metavar="PATTERN",
        nargs="+",
        default=[],
        help="only devices with these names; * and ? stand for any. Default: all",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="points of accuracy (of another metric: percent) that a device lets the model be worse than the "
        "one in use, and one sample always; default: %(default)s",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="for devices that are there and have not answered, or for a first one; default: %(default)g",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="have it tried anew where it was tried already, on other data say",
    )
    parser.add_argument(
        "--max-kbit-s",
        type=float,
        default=0.0,
        metavar="RATE",
        help="bound on the rate at which the file is sent; default: none",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="use the model for nothing: ask the devices how large its activations are on their data, for "
        "`hedgerow export --quantize int8 --ranges FILE`; the model is a float one",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("ranges.bin"),
        help="where --calibrate writes the sum of what devices have counted; default: %(default)s",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what came of it as JSON")
    add_access_arguments(parser, maker="`hedgerow keys init` (its folder coordinator)")


def run(options: argparse.Namespace) -> int:
    """Deliver, and say what came of it."""
    from hedgerow.delivery_table import DeliveryTable
    from hedgerow_coordinator import deliver
    from hedgerow_export import calibration_form, check_foreign, read_model
    from hedgerow_transport import BrokerUrl

    settings, warnings = _settings(options)
    model = read_model(options.model)
    facts = check_foreign(model)["metadata"]
    if options.calibrate:
        model = calibration_form(model)
    for warning in warnings:
        say(warning)
    origin = (
        f", of round {facts['round']} of run '{facts['run']}'" if {"run", "round"} <= facts.keys() else ""
    )
    place = BrokerUrl.parse(settings.broker).place
    say(f"delivering {options.model} ({len(model):,} bytes{origin}) at {place}")
    with stop_on_signals() as stop, DeliveryTable(len(model)) as table:
        try:
            outcome = deliver(model, settings, stop=stop, show=table.show, say=say)
        except KeyboardInterrupt:
            say("stopped; what the devices have answered stays: the same command goes on from there")
            return ExitCode.INTERRUPTED
    return _conclude(outcome, settings, options, model=model)


def _settings(options: argparse.Namespace) -> tuple[DeliverySettings, Sequence[str]]:
    from hedgerow_coordinator import DeliverySettings
    from hedgerow_transport import BlobRef, Delivery, MessageError

    if not 0 <= options.max_drop <= 100:
        raise UsageError(f"--max-drop {options.max_drop} is not between 0 and 100")
    if not 0 < options.wait < math.inf or not 0 <= options.max_kbit_s < math.inf:
        raise UsageError("--wait is a number above 0, and --max-kbit-s one from 0 up")
    for option, path in (("-o", options.output), ("--json", options.json)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"{option} {path} is not a file in a folder that is there")
    patterns = ",".join(options.devices)
    try:
        Delivery(model=BlobRef(kind="export", digest=bytes(16), size=1), devices=patterns)
    except MessageError as error:
        raise UsageError(f"--devices takes names like pi-* and kitchen, got {patterns!r}") from error
    access = read_access(options, role="coordinator")
    settings = DeliverySettings(
        broker=access.broker,
        namespace=options.namespace,
        purpose="calibrate" if options.calibrate else "use",
        devices=patterns,
        max_drop=options.max_drop,
        serial=int(time.time()) if options.again else 0,
        wait_s=options.wait,
        max_kbit_s=options.max_kbit_s,
        credentials=access.credentials,
    )
    return settings, access.warnings


def _conclude(
    outcome: DeliveryOutcome, settings: DeliverySettings, options: argparse.Namespace, *, model: bytes
) -> int:
    good = [row for row in outcome.rows if row.state == _GOOD[settings.purpose]]
    silent = [row.name for row in outcome.rows if row.online and not row.is_final]
    if options.json is not None:
        options.json.write_text(json.dumps(_facts(outcome, size=len(model)), indent=2) + "\n")
    if outcome.displaced:
        say("somebody else delivers another model in this namespace: this delivery has ended")
    if silent:
        say(f"without an answer within {settings.wait_s:g} s: {', '.join(silent)}")
    if options.calibrate and not _write_ranges(good, model, options.output):
        good = []
    devices = "device" if len(outcome.rows) == 1 else "devices"
    say(
        f"{_GOOD[settings.purpose]} by {len(good)} of {len(outcome.rows)} {devices}, "
        f"{outcome.bytes_sent:,} bytes sent, {outcome.seconds:.0f} s"
    )
    return ExitCode.DONE if good else ExitCode.RUN_FAILED


def _write_ranges(rows: Sequence[DeliveryRow], form: bytes, path: Path) -> bool:
    """Add up what devices have counted, and write it; return whether there was anything of use."""
    from hedgerow_export import ActivationRanges, ModelError, is_of_form, merge_ranges, write_atomically

    found = []
    for row in rows:
        assert row.report is not None
        try:
            part = ActivationRanges.decode(row.report.ranges)
        except ModelError as error:
            say(f"{row.name} is left out: {error}")
            continue
        if is_of_form(part, form):
            found.append(part)
        else:
            say(f"{row.name} is left out: it has counted another model")
    if not found:
        return False
    merged = merge_ranges(found)
    write_atomically(path, merged.encode())
    say(
        f"wrote {path}: the activations of {merged.rows:,} inputs on {len(found)} "
        f"device{'s' * (len(found) != 1)}; next: hedgerow export RUN --quantize int8 --ranges {path}"
    )
    return True


def _facts(outcome: DeliveryOutcome, *, size: int) -> dict[str, object]:
    devices = []
    for row in outcome.rows:
        told: dict[str, object] = {"name": row.name, "online": row.online, "state": row.state}
        if row.problem:
            told["problem"] = row.problem
        if row.report is not None:
            told |= {
                "reason": row.report.reason,
                "metric": row.report.metric,
                **dict(row.report.numbers),
                "in_use": row.report.in_use.hex(),
            }
        devices.append(told)
    return {
        "model_bytes": size,
        "bytes_sent": outcome.bytes_sent,
        "bytes_received": outcome.bytes_received,
        "seconds": outcome.seconds,
        "devices": devices,
    }
