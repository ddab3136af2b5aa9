"""splitmix64 (Steele 2014): words that a seed says, the same on every machine. SPEC.md, section 7."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def splitmix(key: int, *, start: int, count: int) -> NDArray[np.uint64]:
    """Return words `start` to `start + count` of the sequence from `key`."""
    z = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
