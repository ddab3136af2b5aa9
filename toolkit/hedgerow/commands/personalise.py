"""Adapt the model of a run to this device's own data, and write it as a checked ONNX file.

It starts from the last model in the client's state folder, under the device's own mask where it has one,
trains it on this device's data, measures it on data that is held out, and compares the file with torch. The
state folder is only read, also while the client runs; nothing is sent.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("task", type=Path, help="the task file that the client was given")
    parser.add_argument(
        "--state-dir",
        metavar="FOLDER",
        type=Path,
        help="the client's; default: ~/.local/share/hedgerow/NAME",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder with this device's data, handed to load_data"
    )
    parser.add_argument("--name", help="this device's name, handed to load_data; default: the host's name")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("personal.onnx"),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=5,
        metavar="N",
        help="passes over the data, 0 for none; default: %(default)s",
    )
    parser.add_argument("--learning-rate", type=float, default=0.01, metavar="R", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--last", action="store_true", help="train the last layer alone")
    parser.add_argument(
        "--freeze",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors or modules that stay as they are, such as 'features.*'; may be given again",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the data to measure on, where the task has no load_held_out; default: %(default)s",
    )
    parser.add_argument(
        "--template", metavar="FILE", type=Path, help="the run's template.onnx; default: made from the task"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="torch threads; default: one less than cores"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was measured as JSON")


def run(options: argparse.Namespace) -> int:
    """Adapt, measure, write, and say what came out."""
    from hedgerow.commands.client import default_state_directory
    from hedgerow.personalising import Adaptation, personalise

    _check(options)
    usual = default_state_directory(options.name)  # ends in the client's name
    facts = personalise(
        options.task,
        state=options.state_dir or usual,
        data=options.data,
        client=usual.name,
        output=options.output,
        template=options.template,
        adaptation=Adaptation(
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            held_out=options.held_out,
            freeze=tuple(options.freeze),
            last=options.last,
            threads=options.threads or max(1, (os.cpu_count() or 1) - 1),
        ),
    )
    agreement = "" if facts.top1_agreement is None else f", top-1 agreement {facts.top1_agreement:.2%}"
    print(
        f"wrote {options.output}: {facts.onnx_bytes:,} bytes, density {facts.density:.3f}, "
        f"from version {facts.version} of run '{facts.run}'"
    )
    print(
        f"{facts.metric} on {facts.num_held_out} samples that were held out: {facts.before:.4f} as it came, "
        f"{facts.after:.4f} after {options.epochs} epochs on {facts.num_trained} samples, "
        f"{facts.exported:.4f} in the file"
    )
    print(f"checked against torch: largest error {facts.max_abs_error:.1e}{agreement}")
    if facts.was_seen:
        print(
            "The run may have trained on the samples that are held out here: give the task a load_held_out, "
            "or use personal models, for numbers of data that nothing was trained on."
        )
    if facts.after != facts.before and (facts.after > facts.before) != facts.higher_is_better:
        print("It got worse: try fewer --epochs, a smaller --learning-rate, or --last.")
    if options.json is not None:
        options.json.write_text(json.dumps(facts.to_json(), indent=2) + "\n")
    return ExitCode.DONE


def _check(options: argparse.Namespace) -> None:
    for option, path in (("-o", options.output), ("--json", options.json)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"{option} {path} is not a file in a folder that is there")
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    rules = (
        ("--epochs", options.epochs, 0 <= options.epochs <= 10_000, "from 0 to 10000"),
        ("--batch-size", options.batch_size, 1 <= options.batch_size <= 65536, "from 1 to 65536"),
        ("--learning-rate", options.learning_rate, 0 < options.learning_rate <= 1e6, "above 0, at most 1e6"),
        ("--held-out", options.held_out, 0 < options.held_out < 1, "above 0 and below 1"),
        (
            "--threads",
            options.threads,
            options.threads is None or 1 <= options.threads <= 256,
            "from 1 to 256",
        ),
    )
    for option, value, holds, rule in rules:
        if not holds:
            raise UsageError(f"{option} must be {rule}, not {value}")
