"""Run a coverage-guided fuzzer over the decoders: ``python fuzz.py frames|messages [libFuzzer options]``."""

from __future__ import annotations

import importlib
import sys
import tracemalloc

import atheris

MANY = 1 << 23
PACKAGES = {"frames": "hedgerow_codecs", "messages": "hedgerow_transport"}


def load_loops() -> object:
    """Load the compiled loops as if there had been much to decode; None where there are none."""
    return importlib.import_module("hedgerow_codecs.stages.compiled").compiled_loops(MANY)


def main() -> None:
    """Fuzz what the first argument names; the others are libFuzzer's."""
    if sys.argv[1:2] and sys.argv[1] in PACKAGES:
        target = sys.argv.pop(1)
    else:
        sys.exit(f"fuzz.py: say what to fuzz: {' or '.join(PACKAGES)}")
    # Instrumented functions are nothing that numba could compile.
    with atheris.instrument_imports(
        include=[PACKAGES[target]], exclude=["hedgerow_codecs.stages.numba_loops", "numba"]
    ):
        attempt = importlib.import_module(target).attempt
        if target == "frames" and load_loops() is None:
            sys.exit("fuzz.py: frames needs numba, to compare its loops with numpy's")
    tracemalloc.start()
    atheris.Setup(sys.argv, lambda data: attempt(bytes(data)) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
