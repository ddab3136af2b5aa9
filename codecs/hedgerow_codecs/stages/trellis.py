"""Trellis-coded quantisation: two coarse quantisers in turns, and the path through them that costs least.

Quantiser 0 has the even multiples of a unit, quantiser 1 has zero and the odd ones, so that together they
are as fine as the unit while each costs as few bits as twice the unit would. Which one is next follows from
whether the indices before were even or odd. Sources: Marcellin and Fischer 1990; with entropy coding and a
zero in both quantisers: Fischer and Wang 1992, Marcellin 1994. SPEC.md, section 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SEGMENT = 128
_BATCH = 1 << 17
_NUM_STATES = 4


def quantizer_bits(odd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which quantiser each index is of.

    Parameters
    ----------
    odd : ndarray, bool, shape (lanes, steps)
        Whether the indices are odd.

    Returns
    -------
    ndarray, bool, shape (lanes, steps)
        In each lane, at step `t`: the parity of the number of odd ones at ``t - 1``, ``t - 3`` and so on.
    """
    bits = np.zeros_like(odd)
    for first in (0, 1):
        ones = np.bitwise_xor.accumulate(odd[:, first::2], axis=1)
        after = bits[:, first + 1 :: 2]
        after[:] = ones[:, : after.shape[1]]
    return bits


def path_of(odd: NDArray[np.bool_], *, lanes: int) -> NDArray[np.bool_]:
    """Return which quantiser each index is of, for entries that are cut into lanes, shape (n,) each."""
    steps = -(-odd.size // lanes)
    padded = np.zeros(steps * lanes, np.bool_)
    padded[: odd.size] = odd
    return quantizer_bits(padded.reshape(lanes, steps)).reshape(-1)[: odd.size]


def to_units(
    indices: NDArray[np.signedinteger[Any]], quantizer: NDArray[np.bool_]
) -> NDArray[np.signedinteger[Any]]:
    """Return the magnitudes that indices stand for, in units."""
    units: NDArray[np.signedinteger[Any]] = 2 * indices - (quantizer & (indices > 0))
    return units


def choose_indices(
    sizes: NDArray[np.float64],
    first_bits: NDArray[np.float64],
    more_bits: NDArray[np.float64],
    *,
    tradeoff: float,
    lanes: int,
) -> NDArray[np.int64]:
    """Return the indices of least error plus `tradeoff` times bits, found by the Viterbi algorithm.

    Parameters
    ----------
    sizes, first_bits, more_bits : ndarray, float64, shape (n,)
        Magnitudes in units; what an index takes more than a zero, and each further one, in bits.
    tradeoff : float
        Squared units that a bit is worth.
    lanes : int
        As `grid_shape` returns them; every lane begins anew.

    Returns
    -------
    ndarray, int64, shape (n,)
    """
    steps = -(-sizes.size // lanes)
    at_once = max(_BATCH // steps, 1)
    found = []
    for lane in range(0, lanes, at_once):
        part = slice(lane * steps, min((lane + at_once) * steps, sizes.size))
        costs, indices = _branches(sizes[part], first_bits[part], more_bits[part], tradeoff=tradeoff)
        found.append(_cheapest(costs, indices, steps=steps))
    return np.concatenate(found)


def _branches(
    sizes: NDArray[np.float64],
    first_bits: NDArray[np.float64],
    more_bits: NDArray[np.float64],
    *,
    tradeoff: float,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the cost of the best even and odd index in each quantiser, and the index, shape (2, 2, n)."""
    costs = np.empty((2, 2, sizes.size))
    indices = np.empty((2, 2, sizes.size), np.int32)
    for quantizer in (0, 1):
        for parity in (0, 1):
            # Indices 2 j + parity stand for 4 j + lowest units, but zero is zero.
            lowest = 2 * parity - quantizer
            low = np.maximum(np.floor((sizes - lowest) / 4), 0)
            options = []
            for half in (low, low + 1):
                index = 2 * half + parity
                error = sizes - np.where(index > 0, 4 * half + lowest, 0)
                bits = np.where(index > 0, first_bits + (index - 1) * more_bits, 0)
                options.append((error * error + tradeoff * bits, index))
            (near, index), (far, other) = options
            costs[quantizer, parity] = np.minimum(near, far)
            indices[quantizer, parity] = np.where(far < near, other, index)
    return costs, indices


def _cheapest(costs: NDArray[np.float64], indices: NDArray[np.int32], *, steps: int) -> NDArray[np.int64]:
    """Return the indices along the cheapest path of each lane, shape (n,).

    Lanes are cut into segments, all of which are searched at the same time, from each state in which they may
    begin; then the segments of a lane are joined.
    """
    size = costs.shape[2]
    lanes = -(-size // steps)
    pieces = -(-steps // _SEGMENT)
    by_segment = np.zeros((2, 2, lanes, pieces * _SEGMENT))
    whole = np.zeros((2, 2, lanes * steps))
    whole[:, :, :size] = costs
    by_segment[..., :steps] = whole.reshape(2, 2, lanes, steps)
    # Steps first, segments last: every operation of a step runs over whole rows of memory.
    branches = np.ascontiguousarray(by_segment.reshape(2, 2, lanes * pieces, _SEGMENT).transpose(3, 0, 1, 2))
    ends, choices = _search(branches)
    states = _join(ends.reshape(_NUM_STATES, _NUM_STATES, lanes, pieces))
    quantizer, parity = _walk_back(choices, *(side.reshape(-1) for side in states))
    order = (lanes, pieces * _SEGMENT)
    of_entries = [
        bits.T.reshape(order)[:, :steps].reshape(-1)[:size].astype(np.intp) for bits in (quantizer, parity)
    ]
    return indices[of_entries[0], of_entries[1], np.arange(size)].astype(np.int64)


def _search(branches: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what each way from state to state costs, and which of two states came before.

    A state is the quantiser of this index, times two, plus the quantiser of the last one: from state
    ``(q, r)`` an index of parity `p` leads to ``(p ^ r, q)``.

    Parameters
    ----------
    branches : ndarray, float64, shape (steps, 2, 2, segments)
        Costs by quantiser and parity.

    Returns
    -------
    ends : ndarray, float64, shape (4, 4, segments)
        By first and last state.
    choices : ndarray, bool, shape (steps, 4, 2, 2, segments)
        By first state, next quantiser and this quantiser: the last quantiser of the better way.
    """
    steps, _, _, segments = branches.shape
    so_far = np.full((_NUM_STATES, 2, 2, segments), np.inf)
    for state in range(_NUM_STATES):
        so_far[state, state >> 1, state & 1] = 0
    choices = np.empty((steps, _NUM_STATES, 2, 2, segments), np.bool_)
    following = np.empty_like(so_far)
    for branch, choice in zip(branches, choices, strict=True):
        for after in (0, 1):
            by_zero = so_far[:, :, 0] + branch[:, after]
            by_one = so_far[:, :, 1] + branch[:, 1 - after]
            np.less(by_one, by_zero, out=choice[:, after])
            np.minimum(by_one, by_zero, out=following[:, after])
        so_far, following = following, so_far
    return so_far.reshape(_NUM_STATES, _NUM_STATES, segments), choices


def _join(ends: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and the last state of each segment on the cheapest ways, shape (lanes, pieces) each.

    Parameters
    ----------
    ends : ndarray, float64, shape (4, 4, lanes, pieces)
        By first and last state. Lanes begin in state 0.
    """
    _, _, lanes, pieces = ends.shape
    total = np.full((_NUM_STATES, lanes), np.inf)
    total[0] = 0
    before = np.empty((pieces, _NUM_STATES, lanes), np.intp)
    for piece in range(pieces):
        ways = total[:, None] + ends[..., piece]
        before[piece] = ways.argmin(axis=0)
        total = ways.min(axis=0)
    firsts, lasts = np.empty((lanes, pieces), np.intp), np.empty((lanes, pieces), np.intp)
    state = total.argmin(axis=0)
    for piece in range(pieces - 1, -1, -1):
        lasts[:, piece] = state
        state = before[piece][state, np.arange(lanes)]
        firsts[:, piece] = state
    return firsts, lasts


def _walk_back(
    choices: NDArray[np.bool_], firsts: NDArray[np.intp], lasts: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the quantiser and the parity of each index, shape (steps, segments) each."""
    steps, segments = choices.shape[0], choices.shape[-1]
    quantizers = np.empty((steps, segments), np.bool_)
    parities = np.empty((steps, segments), np.bool_)
    places = np.arange(segments)
    after, this = lasts >> 1, lasts & 1
    for step in range(steps - 1, -1, -1):
        last = choices[step, firsts, after, this, places]
        quantizers[step], parities[step] = this, after ^ last
        after, this = this, last.astype(np.intp)
    return quantizers, parities
