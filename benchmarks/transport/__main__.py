"""Runs the transport benchmark: ``python -m benchmarks.transport``; see docs/benchmarks/transport.md."""

from __future__ import annotations

import sys

from benchmarks.transport.brokers import one_thread


def main() -> int:
    """Run on one thread, also in what numpy brings, which reads this when it is imported."""
    one_thread()
    from benchmarks.transport.run import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
