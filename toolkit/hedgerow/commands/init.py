"""Make a plan and an ONNX template from a task file.

Writes plan.toml, template.onnx and, where the task has test data, evaluate.npz. Copy the folder to the
gateway: nothing else is needed there, and no torch.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode
from hedgerow_transport import BROKER_PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("task", type=Path, help="Python file with build_model, load_data and loss")
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder handed to load_data and load_test_data"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path("."), help="where to write; default: here"
    )
    parser.add_argument("--name", help="name of the run; default: the task file's name")
    parser.add_argument(
        "--clients",
        metavar="N",
        type=int,
        default=2,
        help="clients to wait for before the first round; default: %(default)s",
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=20, help="default: %(default)s")
    parser.add_argument(
        "--preset",
        metavar="BROKER",
        choices=sorted(BROKER_PRESETS),
        default="any",
        help=f"whose limits the chunks shall fit: {', '.join(sorted(BROKER_PRESETS))}; default: %(default)s",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="write the plan of a published method; `hedgerow policies` lists them",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="begin with trained weights: .safetensors, .onnx, or a torch state dict (.pt, .pth, .bin)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="with --weights: take what fits by name and shape, leave the rest as build_model makes it",
    )
    parser.add_argument(
        "--freeze",
        metavar="PATTERN",
        action="append",
        default=[],
        help="tensors or layers that stay as they are, such as 'conv1' or 'layer?.*'; may be given again",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Write the files."""
    from hedgerow.initialise import Transfer, initialise

    name = options.name
    if name is None:
        name = re.sub(r"[^a-z0-9_-]", "-", options.task.stem.lower())[:32].strip("-_") or "run"
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    print(f"reading {options.task} and exporting its model ...", flush=True)
    written = initialise(
        options.task,
        data=options.data,
        output=options.output,
        name=name,
        min_clients=options.clients,
        rounds=options.rounds,
        force=options.force,
        preset=BROKER_PRESETS[options.preset],
        recipe=options.recipe,
        transfer=Transfer(weights=options.weights, partial=options.partial, freeze=tuple(options.freeze)),
    )
    for path, meaning in written:
        print(f"wrote {path}: {meaning}")
    print(
        f"next, on the gateway: hedgerow coordinator {options.output / 'plan.toml'} --broker mqtt://localhost"
    )
    print(f"and on each device:   hedgerow client {options.task.name} --broker mqtt://GATEWAY")
    return ExitCode.DONE
