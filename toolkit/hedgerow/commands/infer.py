"""Run an exported model on inputs from a file, or measure how fast it is here.

Works with onnxruntime alone, as on a device; threads do not spin while they wait.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hedgerow_export import DeviceModel

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("model", type=Path, nargs="?", help="an ONNX file")
    parser.add_argument(
        "--state-dir",
        metavar="FOLDER",
        type=Path,
        help="in place of a file: the delivered model that the client with this state directory uses",
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        type=Path,
        help=".npz with `inputs`, .npy, or .csv with one input a line; - reads such lines as they come",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write all outputs to this .npy file")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="one input after the other, as a sensor gives them, not as a batch",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="default: the model's target, below the cores"
    )
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="measure latency with 1, 2 and 4 threads, where there are cores",
    )


def run(options: argparse.Namespace) -> int:
    """Run the model and print answers and times."""
    from hedgerow_export import DeviceModel

    if options.threads is not None and not 1 <= options.threads <= 256:
        raise UsageError(f"--threads {options.threads} is not between 1 and 256")
    if options.input is None and not options.benchmark:
        raise UsageError("give --input FILE, or --benchmark")
    if options.output is not None and not options.output.parent.is_dir():
        raise UsageError(f"--output {options.output} is not in a folder that is there")
    path = _model_path(options.model, options.state_dir)
    model = DeviceModel(path, threads=options.threads)
    if options.benchmark:
        _benchmark(path)
    if options.input is None:
        return ExitCode.DONE
    outputs = _stream(model, options.input) if options.stream or str(options.input) == "-" else None
    if outputs is None:
        outputs = _batch(model, options.input)
    if options.output is not None:
        _write(options.output, outputs)
    time = model.timing()
    threads = f"{time.threads} thread{'s' if time.threads > 1 else ''}"
    print(
        f"{len(outputs):,} inputs, {threads}: {time.p50_ms:.3f} ms each (p50), {time.p95_ms:.3f} ms (p95), "
        f"{1e3 / time.p50_ms:,.0f} a second"
    )
    return ExitCode.DONE


def _model_path(model: Path | None, state_dir: Path | None) -> Path:
    if (model is None) is (state_dir is None):
        raise UsageError("give an ONNX file, or --state-dir FOLDER for the delivered model that is in use")
    if state_dir is None:
        assert model is not None
        return model
    from hedgerow.commands.model import state_directory
    from hedgerow_edge_client import ModelShelf

    shelf = ModelShelf(state_directory(state_dir, None))
    found = shelf.path_in_use()
    for warning in shelf.warnings:
        print(warning)
    if found is None:
        raise UsageError(f"no model is in use in {state_dir}: none was accepted there")
    return found


def _batch(model: DeviceModel, path: Path) -> NDArray[Any]:
    import numpy as np

    from hedgerow.infer_inputs import read_rows
    from hedgerow_export.runner import MAX_BATCH

    rows = read_rows(path, model.input)
    starts = range(0, len(rows), MAX_BATCH) if rows.ndim else (0,)
    parts = [model.predict(rows[start : start + MAX_BATCH] if rows.ndim else rows) for start in starts]
    outputs = np.concatenate(parts) if parts else model.predict(rows)
    for number, row in enumerate(outputs[:_SHOWN]):
        print(_line(model, number, row))
    if len(outputs) > _SHOWN:
        print(f"... {len(outputs) - _SHOWN:,} more; --output FILE writes all of them")
    return outputs


def _stream(model: DeviceModel, path: Path) -> NDArray[Any]:
    import numpy as np

    from hedgerow.infer_inputs import csv_rows, read_rows

    lines = path.suffix == ".csv" or str(path) == "-"
    rows = csv_rows(path, model.input) if lines else iter(read_rows(path, model.input))
    outputs = []
    for number, answer in enumerate(model.stream(rows)):
        print(f"{_line(model, number, answer.outputs)}  {answer.ms:.3f} ms", flush=True)
        outputs.append(answer.outputs)
    if not outputs:
        raise UsageError(f"--input {path} holds no inputs")
    return np.stack(outputs)


def _line(model: DeviceModel, number: int, outputs: NDArray[Any]) -> str:
    """Return one answer: the class with its score, or the numbers."""
    if outputs.ndim == 1 and len(outputs) > 1:
        return f"{number}  {model.label(outputs)}  {outputs.max():.4g}"
    flat = outputs.reshape(-1)
    more = " ..." if flat.size > 6 else ""
    return f"{number}  {' '.join(f'{value:.4g}' for value in flat[:6])}{more}"


def _benchmark(path: Path) -> None:
    from hedgerow_export import Runner, measure_latency, read_model, sample_inputs

    data = read_model(path)
    row = sample_inputs(Runner(data), rows=1)
    for threads in (1, 2, 4):
        if threads > (os.cpu_count() or 1):
            break
        (found,) = measure_latency([data], row, threads=threads)
        plural = "s" if threads > 1 else ""
        print(
            f"{threads} thread{plural}: {found.p50_ms:.3f} ms (p50), {found.p95_ms:.3f} ms (p95), "
            f"{found.calls} calls"
        )


def _write(path: Path, outputs: NDArray[Any]) -> None:
    import io

    import numpy as np

    from hedgerow_export import write_atomically

    packed = io.BytesIO()
    np.save(packed, outputs, allow_pickle=False)
    write_atomically(path, packed.getvalue())
