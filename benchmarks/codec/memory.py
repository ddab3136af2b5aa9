"""Peak memory of one call, measured in a process of its own: how much its resident set grows.

The process loads the update (and, to decode, the bytes), codes a small update once so that modules are
loaded (and numba, where it is installed, which stays whatever is decoded), resets the kernel's peak, and
makes the call. What grows is what the call takes beyond its input, its result included. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.codec.cases import load_case
from benchmarks.codec.fixed import make_coder

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_codecs.stages.compiled import compiled_loops

_LARGE = 1 << 23  # entries: some for which numba is loaded
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def can_measure() -> bool:
    """Tell whether this system can say what a process's peak was."""
    return _STATUS.is_file() and os.access(_CLEAR, os.W_OK)


def peak_bytes(codec: str, case: Path, *, blob: bytes | None = None) -> int:
    """Return how far memory grows while a codec encodes a case's first vector, or decodes `blob`.

    Raises
    ------
    RuntimeError
        The process failed; with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="hedgerow-memory-") as scratch:
        command = [sys.executable, "-m", "benchmarks.codec.memory", codec, str(case)]
        if blob is not None:
            Path(scratch, "blob").write_bytes(blob)
            command += ["--blob", str(Path(scratch, "blob"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {codec} failed: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])


def main() -> int:
    """Make one call and print by how many bytes memory grew."""
    parser = argparse.ArgumentParser()
    parser.add_argument("codec")
    parser.add_argument("case", type=Path)
    parser.add_argument("--blob", type=Path)
    options = parser.parse_args()
    case = load_case(options.case)
    vector = case.vectors[0]
    coder = make_coder(options.codec, vector)
    _warm_up(options.codec)
    blob = options.blob.read_bytes() if options.blob else b""
    _CLEAR.write_text("5")
    before = _status("VmRSS")
    result = coder.decode(blob, case.mask) if options.blob else coder.encode(vector, case.mask)
    grown = _status("VmHWM") - before
    assert len(result)
    print(grown)
    return 0


def _warm_up(codec: str) -> None:
    compiled_loops(_LARGE)
    layout = Layout(tensors=(TensorSpec(name="w", shape=(64, 64), kind="linear", prunable=True),))
    mask = Mask.dense(layout)
    small = np.random.default_rng(7).normal(size=4096).astype(np.float32)
    coder = make_coder(codec, small)
    coder.decode(coder.encode(small, mask), mask)


def _status(field: str) -> int:
    for row in _STATUS.read_text().splitlines():
        if row.startswith(f"{field}:"):
            return int(row.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


if __name__ == "__main__":
    sys.exit(main())
