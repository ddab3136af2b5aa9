"""An exponential moving average of the server's weights: what is measured and exported where a plan asks.

Polyak & Juditsky 1992, with the correction for its beginning of Adam (Kingma & Ba 2015, section 3), here for
each weight by itself: one that was pruned and grows again begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_coordinator.checkpoint import ServerState

# Names in `ServerState.optimizer`: the sum, for how many versions each weight is in it, and the decay.
_SUM, _AGE, _DECAY = "average", "average-age", "average-decay"


def followed(
    state: ServerState, *, before: Mapping[str, NDArray[Any]], decay: float, anew: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the average's state after a version.

    Parameters
    ----------
    state : ServerState
        The new version.
    before : Mapping[str, ndarray]
        `ServerState.optimizer` of the version before.
    decay : float
        In [0, 1): the share of the average that stays; with 0 there is none, and nothing is returned.
    anew : bool
        Whether what came before does not count, as when all weights have gone back to their first values.

    Returns
    -------
    dict
        The sum ``s = decay s + (1 - decay) w``, float64, and the number of its terms, both 0 where the mask
        is dead.
    """
    if decay == 0:
        return {}
    live = state.mask.live
    total, age = np.zeros(live.shape, np.float64), np.zeros(live.shape, np.uint32)
    if _SUM in before and not anew:
        total += decay * before[_SUM]
        age += before[_AGE].astype(np.uint32)
    total += (1.0 - decay) * state.weights.astype(np.float64)
    return {
        _SUM: np.where(live, total, 0.0),
        _AGE: np.where(live, age + 1, 0).astype(np.uint32),
        _DECAY: np.array([decay]),
    }


def served_weights(state: ServerState) -> NDArray[np.float32]:
    """Return the weights that are measured and exported: the average where there is one, else the weights.

    A weight that has never moved, as one of a frozen tensor, is what it is to the bit.
    """
    if _SUM not in state.optimizer:
        return state.weights
    age = state.optimizer[_AGE]
    # By steps and not by a power, which differs between machines in its last bits.
    masses, decay = [1.0], float(state.optimizer[_DECAY][0])
    if age.size and age.max() > 0:
        masses.append(1.0 - decay)
        while len(masses) <= age.max():
            masses.append(decay * masses[-1] + (1.0 - decay))
    average = (state.optimizer[_SUM] / np.array(masses)[age]).astype(np.float32)
    # Equal is -0.0 to 0.0, too.
    return np.where(average == state.weights, state.weights, average)
