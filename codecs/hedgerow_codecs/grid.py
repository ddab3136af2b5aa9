"""The grid of quantiser steps: ``(4 + m) * 2**e``, so that step times code is exact in float32.

A step has three significant bits; a code below 2**21 fills float32's 24.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_EXPONENT = -149
MAX_EXPONENT = 123
NUM_STEPS = (MAX_EXPONENT - MIN_EXPONENT + 1) * 4
MAX_CODE = 2**21 - 1
MAX_MAGNITUDE = 2.0**125
"""Largest value a grid codec takes; the next power of two still has room for a rounded-up step."""


def grid_steps(indices: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the steps of indices 0 to `NUM_STEPS` - 1, exact, in increasing order.

    Examples
    --------
    >>> grid_steps(np.array([588, 589, 592]))
    array([1.  , 1.25, 2.  ])
    """
    wide = indices.astype(np.int64)
    steps: NDArray[np.float64] = np.ldexp(4.0 + (wide & 3), (wide >> 2) + MIN_EXPONENT)
    return steps


def grid_index(step: float, *, at_least: bool = False) -> int:
    """Return the index of the step nearest to `step`, or of the first that is not below it.

    Steps beyond either end of the grid give the index of that end.
    """
    mantissa, exponent = math.frexp(step)
    if step <= 0:
        return 0
    eighths = mantissa * 8  # in [4, 8)
    index = (exponent - 3 - MIN_EXPONENT) * 4 - 4
    index += math.ceil(eighths) if at_least else round(eighths)
    return min(max(index, 0), NUM_STEPS - 1)
