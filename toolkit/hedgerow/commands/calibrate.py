"""Count how large a float model's activations are on this machine's data, for an int8 export elsewhere.

What is written holds counts of values in bins for each activation, and no value of the data. Over the
network, for all devices at a time: hedgerow deliver --calibrate.
"""

from __future__ import annotations

import argparse
import queue
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

_TIMEOUT_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("model", type=Path, help="a float ONNX file that `hedgerow export` wrote")
    parser.add_argument(
        "--task", type=Path, required=True, help="the task file, whose load_data has the inputs"
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="folder handed to load_data")
    parser.add_argument("--name", default="calibration", help="client name handed to load_data")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("ranges.bin"), help="default: %(default)s"
    )


def run(options: argparse.Namespace) -> int:
    """Count and write."""
    from hedgerow_edge_client import TrainerCrashed, TrainerProcess, scan_task
    from hedgerow_edge_client.delivery_desk import rows_of
    from hedgerow_edge_client.trial import TRIAL_BYTES, TRIAL_ROWS, LocalRows, trial_sandbox
    from hedgerow_export import calibration_form, check_foreign, read_model, write_atomically
    from hedgerow_export.ranges import MAX_CODED_BYTES

    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    if not options.output.parent.is_dir():
        raise UsageError(f"-o {options.output} is not in a folder that is there")
    scan_task(options.task)
    model = read_model(options.model)
    if not check_foreign(model)["metadata"].get("calibrates"):
        model = calibration_form(model)
    with TrainerProcess(options.task, data=options.data, client=options.name) as trainer:
        try:
            answer = trainer.start_rows(most=TRIAL_ROWS, most_bytes=TRIAL_BYTES).get(timeout=_TIMEOUT_S)
        except queue.Empty:
            raise TrainerCrashed(f"load_data has given no samples within {_TIMEOUT_S:.0f} s") from None
        rows = rows_of(answer)
    if not isinstance(rows, LocalRows):
        raise UsageError(f"{options.task}: {rows.refusal}")
    inputs = {"inputs": rows.inputs}
    counted = trial_sandbox().run("count", {"model": model}, arrays=inputs, most_bytes=MAX_CODED_BYTES)
    coded = counted.arrays["ranges"].tobytes()
    write_atomically(options.output, coded)
    print(
        f"wrote {options.output}: {len(coded):,} bytes, the activations of {counted.words['rows']:,} inputs"
    )
    print(f"next: hedgerow export RUN --quantize int8 --ranges {options.output}")
    return ExitCode.DONE
