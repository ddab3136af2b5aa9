"""Write the pruned model of a run as a checked ONNX file for a device.

The model is made from the run's template, weights and mask, and compared with a reference under onnxruntime.
Channels that the mask has left without effect are taken out; then it may be quantised and stored sparsely,
and is compared again. Where anything disagrees nothing is written. It may be called while the run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

if TYPE_CHECKING:
    from hedgerow.exporting import ExportRequest

_KINDS = ("none", "int8", "int4-weights")
_TARGETS = ("pi4", "pi5", "zero2w", "phone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("model.onnx"), help="default: %(default)s"
    )
    parser.add_argument("--round", type=int, metavar="N", help="an older round that the run still keeps")
    parser.add_argument(
        "--width",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="the model of a device with this share of the channels, of a run with tiers by width",
    )
    parser.add_argument(
        "--quantize",
        choices=_KINDS,
        help="int8: weights and activations of 8 bits, with calibrated ranges; int4-weights: linear layers' "
        "weights of 4 bits. Default: what suits --target, else none",
    )
    parser.add_argument(
        "--sparse", action="store_true", help="store tensors sparsely where that takes fewer bytes"
    )
    parser.add_argument("--target", choices=_TARGETS, help="the device it is for: sets defaults")
    parser.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        help=".npz with `inputs` and perhaps `targets` to check with; default: the plan's test data",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        help=".npz with `inputs` that the ranges of int8 are taken from; default: those to check with",
    )
    parser.add_argument(
        "--ranges",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="histograms that devices have counted (hedgerow deliver --calibrate, hedgerow calibrate), for "
        "int8 in place of inputs",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="points of accuracy that quantising may cost; default: %(default)s",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="names of the classes, one a line, for the model",
    )
    parser.add_argument("--input-meaning", metavar="TEXT", help="what the input is, to write into the model")
    parser.add_argument("--licence", metavar="TEXT", help="of the model, to write into it")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was measured as JSON")


def run(options: argparse.Namespace) -> int:
    """Export and say what came out."""
    from hedgerow.export_table import export_table
    from hedgerow.exporting import export_run

    for option, path in (("-o", options.output), ("--json", options.json)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"{option} {path} is not a file in a folder that is there")
    facts = export_run(options.run, output=options.output, data=options.data, request=_request(options))
    print(
        f"wrote {options.output}: {facts.onnx_bytes:,} bytes, "
        f"density {facts.density:.3f}, of round {facts.round}"
    )
    agreement = "" if facts.top1_agreement is None else f", top-1 agreement {facts.top1_agreement:.2%}"
    print(
        f"checked on {facts.num_samples} inputs against {facts.reference}: "
        f"largest error {facts.max_abs_error:.1e}{agreement}\n"
    )
    print(export_table(facts))
    if options.target:
        from hedgerow_export import find_target

        target = find_target(options.target)
        print(f"{target.title}: {target.note}.")
        print(f"Measure it there with: hedgerow infer {options.output.name} --benchmark")
    if options.json is not None:
        options.json.write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    return ExitCode.DONE


def _request(options: argparse.Namespace) -> ExportRequest:
    from hedgerow.exporting import ExportRequest
    from hedgerow_export import Limits, Recipe, find_target

    if not 0 < options.width <= 1:
        raise UsageError(f"--width {options.width} is not above 0 and at most 1")
    if not 0 <= options.max_drop <= 100:
        raise UsageError(f"--max-drop {options.max_drop} is not between 0 and 100")
    if options.ranges and options.calibration:
        raise UsageError("give --ranges or --calibration, not both")
    target = find_target(options.target) if options.target else None
    kind = options.quantize or (target.quantize if target else "none")
    if options.ranges and kind != "int8":
        raise UsageError("--ranges are for --quantize int8")
    recipe = Recipe(
        quantize=kind,
        sparse=options.sparse,
        target=target,
        limits=Limits(drop_points=options.max_drop),
        threads=(1, 2) if (os.cpu_count() or 1) > 1 else (1,),
    )
    facts = {
        **({"labels": _labels(options.labels)} if options.labels else {}),
        **({"input": options.input_meaning} if options.input_meaning else {}),
        **({"licence": options.licence} if options.licence else {}),
    }
    return ExportRequest(
        width=options.width,
        round=options.round,
        recipe=recipe,
        calibration=options.calibration,
        ranges=tuple(options.ranges),
        facts=facts,
    )


def _labels(path: Path) -> str:
    """Return the lines of a file as a JSON list."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--labels {path} cannot be read: {reason}") from error
    return json.dumps([line for line in lines if line], ensure_ascii=False)
