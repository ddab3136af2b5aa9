"""Write the pruned model of a run as a checked ONNX file.

The model is made from the run's template, weights and mask, run on real inputs under onnxruntime, and
compared with a reference; where they disagree nothing is written. It may be called while the run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("model.onnx"), help="default: %(default)s"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        help=".npz with `inputs` to check with; default: the plan's test data",
    )


def run(options: argparse.Namespace) -> int:
    """Export and say what came out."""
    from hedgerow.exporting import export_run

    output: Path = options.output
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"-o {output} is not a file in a folder that is there")
    facts = export_run(options.run, output=options.output, data=options.data)
    print(
        f"wrote {options.output}: {facts.onnx_bytes:,} bytes, "
        f"density {facts.density:.3f}, of round {facts.round}"
    )
    agreement = "" if facts.top1_agreement is None else f", top-1 agreement {facts.top1_agreement:.2%}"
    print(
        f"checked on {facts.num_samples} inputs against {facts.reference}: "
        f"largest error {facts.max_abs_error:.1e}{agreement}"
    )
    print(
        "zeros of single weights make the file compressible "
        f"({facts.zip_bytes:,} bytes zipped), not faster under onnxruntime"
    )
    return ExitCode.DONE
