"""Compare what `digests.py` printed: ``python compare.py FIRST.json OTHER.json ...``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    """Print one line for each file, and leave with 1 if one differs from the first."""
    paths = [Path(name) for name in sys.argv[1:]]
    results = {path.stem: json.loads(path.read_text()) for path in paths}
    (reference, first), *others = results.items()
    kinds = Counter(name.partition("/")[0] for name in first["digests"])
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    print(f"{reference}: {describe(first)}: {kinds.total()} digests: {counts}")
    failed = False
    for label, result in others:
        different = [
            name
            for name in sorted(first["digests"].keys() | result["digests"].keys())
            if first["digests"].get(name) != result["digests"].get(name)
        ]
        verdict = "all the same" if not different else f"{len(different)} differ"
        print(f"{label}: {describe(result)}: {verdict}")
        for name in different[:20]:
            print(f"  {name}")
        failed = failed or bool(different)
    sys.exit(1 if failed or not others else 0)


def describe(result: dict) -> str:
    """Return in a few words where a result comes from."""
    about = result["about"]
    dispatched = " ".join(about["dispatched"]) or "none"
    return f"numpy {about['numpy']}, Python {about['python']}, {about['machine']}, dispatched: {dispatched}"


if __name__ == "__main__":
    main()
