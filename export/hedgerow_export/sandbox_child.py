"""The child process of `Sandbox`.

``python -m hedgerow_export.sandbox_child MIB SECONDS``; the request comes on stdin, as an ``.npz``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ExportError, MissingPackageError
from hedgerow_export.sandbox import pack, unpack

Found = tuple[dict[str, Any], dict[str, NDArray[Any]]]
_PR_SET_PDEATHSIG = 1
_LATENCY_SECONDS = 0.5


def main(arguments: list[str]) -> int:
    """Do the job on stdin, and answer on stdout."""
    _limit(mib=int(arguments[0]), seconds=float(arguments[1]))
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what a library prints is no answer
    words, arrays = unpack(source.read())
    try:
        found = JOBS[words.pop("job")](arrays, **words)
    except MissingPackageError as error:
        found = {"failed": "MissingPackageError", "reason": str(error), "package": error.package}, {}
    except MemoryError:
        found = {"failed": "ModelError", "reason": "There is not enough memory for the model."}, {}
    except ExportError as error:
        found = {"failed": type(error).__name__, "reason": str(error)}, {}
    except Exception as error:  # noqa: BLE001  # the process's top: a strange model may raise anything
        reason = f"The model cannot be used ({type(error).__name__}: {str(error)[:200]})."
        found = {"failed": "ModelError", "reason": reason}, {}
    sink.write(pack(*found))
    sink.flush()
    return 0


def _limit(*, mib: int, seconds: float) -> None:
    """Bound memory and time, leave no core file, and end with the parent."""
    most = mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # Beside the parent's clock, in case that is gone. Threads count together.
    cpu_s = int(4 * seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux


def _check(arrays: dict[str, NDArray[Any]]) -> Found:
    from hedgerow_export.optional import is_installed
    from hedgerow_export.runner import Runner

    model = arrays["model"].tobytes()
    if is_installed("onnx"):
        from hedgerow_export.model_proto import parse_model
        from hedgerow_export.verification import check_form

        check_form(parse_model(model))
    runner = Runner(model)
    spec = runner.input
    told = {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)}
    return {"input": told, "metadata": runner.metadata}, {}


def _judge(arrays: dict[str, NDArray[Any]], *, metric: str, timed: bool) -> Found:
    """Measure a model on inputs and targets."""
    from hedgerow_export.evaluation import evaluate
    from hedgerow_export.timing import measure_latency

    model, inputs = arrays["model"].tobytes(), arrays["inputs"]
    found = evaluate(model, inputs, arrays["targets"], metric)
    told: dict[str, Any] = {"value": found.value, "samples": found.num_samples}
    if timed:
        (latency,) = measure_latency([model], inputs[:1], seconds=_LATENCY_SECONDS, calls=50)
        told["p50_ms"] = latency.p50_ms
    return told, {}


def _count(arrays: dict[str, NDArray[Any]], *, most_bytes: int) -> Found:
    """Count the activations of a model in its form for calibration."""
    from hedgerow_export.calibration import count_activations

    found = count_activations(arrays["model"].tobytes(), arrays["inputs"])
    coded = found.encode(most_bytes=most_bytes)
    return {"rows": found.rows}, {"ranges": np.frombuffer(coded, np.uint8)}


JOBS: dict[str, Callable[..., Found]] = {"check": _check, "judge": _judge, "count": _count}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
