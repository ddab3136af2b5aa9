"""Run a coverage-guided fuzzer over the decoders: ``python fuzz.py frames|messages [libFuzzer options]``."""

from __future__ import annotations

import importlib
import sys
import tracemalloc

import atheris

PACKAGES = {"frames": "hedgerow_codecs", "messages": "hedgerow_transport"}


def main() -> None:
    """Fuzz what the first argument names; the others are libFuzzer's."""
    if sys.argv[1:2] and sys.argv[1] in PACKAGES:
        target = sys.argv.pop(1)
    else:
        sys.exit(f"fuzz.py: say what to fuzz: {' or '.join(PACKAGES)}")
    with atheris.instrument_imports(include=[PACKAGES[target]]):
        attempt = importlib.import_module(target).attempt
    tracemalloc.start()
    atheris.Setup(sys.argv, lambda data: attempt(bytes(data)) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
