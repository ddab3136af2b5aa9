"""What the context coder expects before it has seen anything. SPEC.md, section 5.5.

The priors are integers by formula, so that they need no tables on the wire and none in the source.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.stages.energy import NUM_CLASSES, NUM_LEVELS, UNIT_CLASS
from hedgerow_codecs.stages.magnitude import FIRST_BUCKETED
from hedgerow_codecs.stages.rans import Model

_WEIGHT = 16 << 12  # a prior counts like 16 symbols seen
_NUM_MEMORIES = 3
_SIGNS_REMEMBERED = 4


@cache
def magnitude_model() -> Model:
    """Return the model of magnitudes 0, 1, 2 and more: class, and the two magnitudes before."""
    alphabet = FIRST_BUCKETED + 1
    prior = np.zeros((NUM_CLASSES - 1, _NUM_MEMORIES, alphabet), np.int64)
    for base in range(NUM_CLASSES - 1):
        for memory in range(_NUM_MEMORIES):
            prior[base, memory] = _spread(base + 1 + memory - UNIT_CLASS)
    next_state, memory_of = _two_before(alphabet)
    return Model(prior=prior, next_state=next_state, memory=memory_of)


@cache
def excess_model(alphabet: int) -> Model:
    """Return the model of buckets: class, and the two buckets before."""
    halving = np.maximum(_WEIGHT >> np.minimum(np.arange(alphabet) + 1, 15), 1)
    prior = np.broadcast_to(halving, (NUM_CLASSES - 1, 1, alphabet)).astype(np.int64)
    return Model(prior=prior, next_state=np.zeros((1, alphabet), np.uint8), memory=np.zeros(1, np.uint8))


@cache
def level_model() -> Model:
    """Return the model of levels: side, and the level before."""
    levels = np.arange(NUM_LEVELS)
    near = np.maximum(_WEIGHT // 4 >> 2 * np.abs(levels[:, None] - levels[None, :]), 64)
    prior = np.broadcast_to(near, (2, NUM_LEVELS, NUM_LEVELS)).astype(np.int64)
    next_state = np.broadcast_to(levels, (NUM_LEVELS, NUM_LEVELS)).astype(np.uint8)
    return Model(prior=prior, next_state=next_state, memory=levels.astype(np.uint8))


@cache
def sign_model() -> Model:
    """Return the model of signs: the signs of the last codes that are not zero.

    Rows of a weight gradient are sums of few outer products of one sign each, hence the runs.
    """
    states = np.arange(1 << _SIGNS_REMEMBERED)
    next_state = np.stack([states << 1, states << 1 | 1], axis=1) & (states.size - 1)
    prior = np.full((1, states.size, 2), _WEIGHT // 2, np.int64)
    return Model(prior=prior, next_state=next_state.astype(np.uint8), memory=states.astype(np.uint8))


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


def _two_before(alphabet: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return states that keep the last two symbols up to 2, and their memories: sums of 0, 1, more."""
    states = np.arange(9)
    symbols = np.minimum(np.arange(alphabet), 2)
    next_state = (symbols[None, :] * 3 + states[:, None] // 3).astype(np.uint8)
    memory = np.minimum(states // 3 + states % 3, _NUM_MEMORIES - 1).astype(np.uint8)
    return next_state, memory
