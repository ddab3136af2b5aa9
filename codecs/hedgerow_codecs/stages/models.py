"""What the context coder expects before it has seen anything. SPEC.md, section 5.5.

The priors are integers by formula, so that they need no tables on the wire and none in the source.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hedgerow_codecs.stages.adaptive import Model
from hedgerow_codecs.stages.energy import NUM_CLASSES, NUM_LEVELS, UNIT_CLASS
from hedgerow_codecs.stages.magnitude import FIRST_BUCKETED

_WEIGHT = 16 << 12  # a prior counts like 16 symbols seen
_SIGNS_REMEMBERED = 4


@cache
def magnitude_model() -> Model:
    """Return the model of magnitudes 0, 1, 2 and more: class, and the two magnitudes before."""
    expected = (0, 1, 1, 2)  # octaves above the class
    prior = [
        [_spread(base + 1 + octave - UNIT_CLASS) for octave in expected] for base in range(NUM_CLASSES - 1)
    ]
    # Two zeros; a zero, and not before it; 1; more. From there, by symbol:
    next_history = [[0, 2, 3, 3], [0, 2, 3, 3], [1, 2, 3, 3], [1, 2, 3, 3]]
    return Model(prior=np.array(prior, np.int64), next_history=np.array(next_history, np.uint8), depth=2)


@cache
def excess_model(alphabet: int) -> Model:
    """Return the model of buckets: class only."""
    halving = np.maximum(_WEIGHT >> np.minimum(np.arange(alphabet) + 1, 15), 1)
    prior = np.broadcast_to(halving, (NUM_CLASSES - 1, 1, alphabet)).astype(np.int64)
    return Model(prior=prior, next_history=np.zeros((1, alphabet), np.uint8), depth=0)


@cache
def level_model() -> Model:
    """Return the model of levels: side, and the level before."""
    levels = np.arange(NUM_LEVELS)
    near = np.maximum(_WEIGHT // 4 >> 2 * np.abs(levels[:, None] - levels[None, :]), 64)
    prior = np.broadcast_to(near, (2, NUM_LEVELS, NUM_LEVELS)).astype(np.int64)
    next_history = np.broadcast_to(levels, (NUM_LEVELS, NUM_LEVELS)).astype(np.uint8)
    return Model(prior=prior, next_history=next_history, depth=1)


@cache
def sign_model() -> Model:
    """Return the model of signs: the signs of the last codes that are not zero.

    Rows of a weight gradient are sums of few outer products of one sign each, hence the runs.
    """
    histories = np.arange(1 << _SIGNS_REMEMBERED)
    next_history = np.stack([histories << 1, histories << 1 | 1], axis=1) & (histories.size - 1)
    prior = np.full((1, histories.size, 2), _WEIGHT // 2, np.int64)
    return Model(prior=prior, next_history=next_history.astype(np.uint8), depth=_SIGNS_REMEMBERED)


def _spread(octave: int) -> list[int]:
    """Return weights of magnitudes 0, 1, 2 and more where the mean magnitude is ``2**octave``.

    Below 1, a share of 5/8 of the mean is not zero, and of these 5/8 are 1 and 1/4 are 2: tails are heavier
    than geometric. From 1 on, geometric.
    """
    if octave < 0:
        nonzero = 5 * _WEIGHT >> 3 - octave
        ones, twos = 5 * nonzero >> 3, nonzero >> 2
        return [_WEIGHT - nonzero, ones, twos, nonzero - ones - twos]
    weights, rest = [], _WEIGHT
    for _ in range(FIRST_BUCKETED):
        weights.append(rest // (1 + (1 << octave)))
        rest -= weights[-1]
    return [*weights, rest]
