"""What the context coder expects before it has seen anything. SPEC.md, section 5.5.

The priors are integers by formula, so that they need no tables on the wire and none in the source.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hedgerow_codecs.stages.adaptive import Model
from hedgerow_codecs.stages.energy import NUM_CLASSES, NUM_LEVELS, UNIT_CLASS
from hedgerow_codecs.stages.magnitude import FIRST_BUCKETED
from hedgerow_codecs.stages.pattern import NUM_RELATIONS

_WEIGHT = 16 << 12  # a prior counts like 16 symbols seen
_SIGNS_REMEMBERED = 4


@cache
def magnitude_model() -> Model:
    """Return the model of magnitudes 0, 1, 2 and more: class, and the two magnitudes before."""
    last, before = np.divmod(np.arange(16), 4)
    expected = np.where(last > 1, 2, np.where(last + before > 0, 1, 0)).tolist()  # octaves above the class
    prior = [
        [_spread(base + 1 + octave - UNIT_CLASS) for octave in expected] for base in range(NUM_CLASSES - 1)
    ]
    next_history = 4 * np.arange(4) + last[:, None]
    return Model(prior=np.array(prior, np.int64), next_history=next_history.astype(np.uint8), depth=2)


@cache
def index_model() -> Model:
    """Return the model of indices 0, 1, 2, odd and even on a path through two quantisers.

    Histories are the quantiser and the one before, times eight, the last index, 3 for many, times two, and
    whether the index before was 2 or more.
    """
    quantizers, past = np.divmod(np.arange(32), 8)
    last = past >> 1
    symbols = np.arange(5)
    after = 2 * (symbols % 2 ^ (quantizers & 1)[:, None]) + (quantizers >> 1)[:, None]
    next_history = 8 * after + 2 * np.minimum(symbols, 3) + (last > 1)[:, None]
    octaves = np.where(last > 1, 2, np.where(past > 0, 1, 0)).tolist()
    prior = [
        [_spread_many(base + 1 + octave - UNIT_CLASS) for octave in octaves]
        for base in range(NUM_CLASSES - 1)
    ]
    return Model(
        prior=np.array(prior, np.int64), next_history=next_history.astype(np.uint8), depth=2, trellis=True
    )


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
    """Return the model of signs: the last ones, and how their places' signs in the pattern are related."""
    histories = np.arange(1 << _SIGNS_REMEMBERED)
    next_history = np.stack([histories << 1, histories << 1 | 1], axis=1) & (histories.size - 1)
    prior = np.full((NUM_RELATIONS, histories.size, 2), _WEIGHT // 2, np.int64)
    return Model(prior=prior, next_history=next_history.astype(np.uint8), depth=_SIGNS_REMEMBERED)


def _spread_many(octave: int) -> list[int]:
    """Return `_spread`, with the last one shared by odd and even."""
    *few, many = _spread(octave)
    return [*few, many - many // 2, many // 2]


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
