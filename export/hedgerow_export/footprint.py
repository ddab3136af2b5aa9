"""How much memory onnxruntime takes for a model, measured in a process of its own."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ModelError

_RUNS = 3
_TIMEOUT_S = 120.0


def measure_footprint(model: bytes, row: NDArray[Any]) -> float:
    """Return the memory that a model takes to be loaded and run, MiB.

    The difference of a new process's memory: its peak after three runs with one thread, less what it held
    when onnxruntime was loaded and the file was read.

    Parameters
    ----------
    model : bytes
    row : ndarray, shape (1, ...)

    Raises
    ------
    ModelError
        The process has not measured it.
    """
    packed = io.BytesIO()
    np.save(packed, row, allow_pickle=False)
    try:
        done = subprocess.run(
            # -P: the folder that the command was started in must not lend its own modules.
            [sys.executable, "-P", "-m", "hedgerow_export.footprint", str(len(model))],
            input=model + packed.getvalue(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"The model's memory could not be measured: {error}.") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(f"The model's memory could not be measured: {said[-1][:200]}.")
    return float(done.stdout)


def _main() -> None:
    data = sys.stdin.buffer.read()
    length = int(sys.argv[1])
    model, row = data[:length], np.load(io.BytesIO(data[length:]), allow_pickle=False)
    del data
    import onnxruntime  # noqa: F401 -- its own size is not the model's

    from hedgerow_export.runner import Runner

    before = _status_kib("VmRSS")
    _forget_peak()
    runner = Runner(model, threads=1)
    for _ in range(_RUNS):
        runner(row)
    print(max(0, _status_kib("VmHWM") - before) / 1024)


def _forget_peak() -> None:
    # Loading may have had a higher peak than what is held now.
    Path("/proc/self/clear_refs").write_text("5")


def _status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    raise RuntimeError(f"/proc/self/status has no {key}")


if __name__ == "__main__":
    _main()
