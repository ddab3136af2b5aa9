"""Selection: the largest of some scores, with ties decided by position."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout


def largest(scores: NDArray[np.floating[Any]], count: int) -> NDArray[np.bool_]:
    """Mark the `count` largest scores; of equal ones, those of lower index.

    Parameters
    ----------
    scores : ndarray, float32 or float64, shape (n,)
        Without NaN.
    count : int
        0 to n inclusive.

    Returns
    -------
    ndarray, bool, shape (n,)

    Examples
    --------
    >>> largest(np.array([2, 1, 2, 2], np.float32), 2).tolist()
    [True, False, True, False]
    """
    if count == 0:
        return np.zeros(len(scores), np.bool_)
    # The value at a rank does not depend on how partition shuffles the rest: equal on every machine.
    rank = len(scores) - count
    threshold = np.partition(scores, rank)[rank]
    chosen: NDArray[np.bool_] = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    chosen[ties[: count - int(np.count_nonzero(chosen))]] = True
    return chosen


def select(
    scores: NDArray[np.float32], *, layout: Layout, live: NDArray[np.bool_], counts: Sequence[int]
) -> NDArray[np.bool_]:
    """Keep the best `counts[t]` live weights of each tensor ``t``.

    Parameters
    ----------
    scores : ndarray, float32, shape (num_parameters,)
    layout : Layout
    live : ndarray, bool, shape (num_parameters,)
        Only these are candidates.
    counts : sequence of int
        At most the number of live weights, for each tensor in layout order.

    Returns
    -------
    ndarray, bool, shape (num_parameters,)
    """
    kept = live.copy()
    for (start, end), count in zip(pairwise(layout.offsets), counts, strict=True):
        candidates = live[start:end]
        if count < np.count_nonzero(candidates):
            kept[start:end][candidates] = largest(scores[start:end][candidates], count)
    return kept
