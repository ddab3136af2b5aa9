"""Scores: how much each weight is worth keeping. Larger stays."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.errors import PruningError

Scores = NDArray[np.float32]


def magnitude_scores(flat: NDArray[np.float32], layout: Layout) -> Scores:
    """Score every weight by its magnitude, ``|w|``.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
    layout : Layout

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Not rounded anywhere, so equal weights give equal scores on every machine.

    Raises
    ------
    PruningError
        A weight is not finite; the message names its tensor.
    """
    layout.check_flat(flat)
    scores = np.abs(flat.astype(np.float32, copy=False))
    if not np.isfinite(scores.max(initial=0.0)):
        first = int(np.argmin(np.isfinite(scores)))
        tensor = layout.tensors[int(np.searchsorted(layout.offsets, first, side="right")) - 1].name
        raise PruningError(f"tensor {tensor!r} holds a weight that is not finite", tensor=tensor)
    return scores


def random_scores(layout: Layout, *, seed: int) -> Scores:
    """Score every weight by 24 random bits, the same for a seed on every machine.

    Parameters
    ----------
    layout : Layout
    seed : int
        0 to 2**64 - 1 inclusive.

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Whole numbers from 0 to 2**24 - 1 inclusive, exact in float32.

    Notes
    -----
    SplitMix64 at counter ``seed' + i`` (Steele, Lea & Flood 2014): integers only, no state.
    """
    start = _mix(np.array([seed], np.uint64))
    counters = np.arange(layout.num_parameters, dtype=np.uint64)
    return (_mix(start + counters) >> np.uint64(40)).astype(np.float32)


def _mix(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    word = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


Score = Callable[[NDArray[np.float32], Layout], Scores]
SCORES: Mapping[str, Score] = {"magnitude": magnitude_scores}
