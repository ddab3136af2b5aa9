"""Runs the export benchmark: ``python -m benchmarks.export``; see docs/benchmarks/export.md."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run on one thread, also in what numpy and torch bring, which read this when they are imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    from benchmarks.export.run import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
