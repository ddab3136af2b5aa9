"""Draws from Beta distributions that are the same for a seed on every machine.

Only sums, products, quotients and square roots are used, which IEEE 754 rounds in one way; numpy's own
generators and logarithms differ in their last bits between versions and processors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LN2 = 0.6931471805599453
_TURNS = 200


def beta_draws(alpha: Floats, beta: Floats, *, seed: int) -> Floats:
    """Draw once from each of many Beta distributions, as ``x / (x + y)`` of two Gamma draws.

    Parameters
    ----------
    alpha, beta : ndarray, float64, shape (n,)
        At least 1.
    seed : int
        0 to 2**64 - 1 inclusive.

    Returns
    -------
    ndarray, float64, shape (n,)
        In (0, 1).
    """
    shapes = np.concatenate([alpha, beta]).astype(np.float64)
    draws = _gamma_draws(shapes, seed=seed)
    above, below = draws[: len(alpha)], draws[len(alpha) :]
    return above / (above + below)


def _gamma_draws(shapes: Floats, *, seed: int) -> Floats:
    """Draw from Gamma distributions of scale 1 (Marsaglia & Tsang 2000, for shapes of at least 1)."""
    third = shapes - 1.0 / 3.0
    slope = 1.0 / np.sqrt(9.0 * third)
    found = np.empty_like(shapes)
    waiting = np.arange(len(shapes))
    for turn in range(_TURNS):
        if not len(waiting):
            break
        first, second, third_draw = (_uniform(waiting, seed=seed, stream=3 * turn + i) for i in range(3))
        # Marsaglia's polar method; a pair outside the circle waits for another turn.
        left, right = 2.0 * first - 1.0, 2.0 * second - 1.0
        square = left * left + right * right
        inside = (square < 1.0) & (square > 0.0)
        safe = np.where(inside, square, 0.5)
        normal = left * np.sqrt(-2.0 * natural_log(safe) / safe)
        cube = 1.0 + slope[waiting] * normal
        inside &= cube > 0.0
        cube = np.where(inside, cube, 1.0)
        cube = cube * cube * cube
        scale = third[waiting]
        bound = 0.5 * normal * normal + scale - scale * cube + scale * natural_log(cube)
        taken = inside & (natural_log(third_draw) < bound)
        found[waiting[taken]] = (scale * cube)[taken]
        waiting = waiting[~taken]
    # A chance of 1e-50 for each.
    found[waiting] = third[waiting]
    return found


def natural_log(values: Floats) -> Floats:
    """Return the natural logarithm of positive numbers to the fifteenth digit, the same bits everywhere."""
    mantissa, exponent = np.frexp(values)
    # From [0.5, 1) to [sqrt(0.5), sqrt(2)), where the series is short.
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    power = exponent.astype(np.float64) - small
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for odd in range(23, 0, -2):
        series = series * square + 1.0 / odd
    return 2.0 * ratio * series + power * _LN2


def _uniform(places: NDArray[np.intp], *, seed: int, stream: int) -> Floats:
    """Return a number in (0, 1) for each place, of 53 random bits: SplitMix64 at a counter."""
    start = mixed(np.array([seed], np.uint64) ^ np.uint64(stream + 1))
    start = mixed(start + np.uint64(stream))
    bits = mixed(start + places.astype(np.uint64)) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def mixed(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's word for each counter (Steele, Lea & Flood 2014): integers only, no state."""
    word = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
