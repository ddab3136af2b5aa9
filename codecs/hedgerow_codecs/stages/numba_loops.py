"""The decoder's loop, compiled by numba: the symbols that `wide` and `narrow` find, sooner.

To import it takes a second and some 100 MB: `compiled` does that where it pays. All arithmetic is on unsigned
64-bit integers, for which numba neither looks for negative indices nor mixes signs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.adaptive import (
    PROBABILITY_BITS,
    SCALE,
    Model,
    counted_lanes,
    frequencies,
    segments,
)

_log = logging.getLogger(__name__)
_BLOCK = 16
"""Steps whose bases lie together: lanes are a kilobyte apart, and each would take a page of its own."""
_COUNTED_AT_ONCE = 1 << 16
_U = np.uint64
_SLOT, _BITS, _WORD, _FLOOR = _U(SCALE - 1), _U(PROBABILITY_BITS), _U(16), _U(1 << 16)
_NONE, _ONE, _TWO, _THREE, _FOUR = (_U(number) for number in range(5))


def decode_lanes(
    states: NDArray[np.uint32],
    words: NDArray[np.uint16],
    bases: NDArray[np.uint8],
    *,
    model: Model,
    steps: int,
) -> NDArray[np.uint8]:
    """Decode symbols; changes `states`.

    Parameters
    ----------
    states : ndarray, uint32, shape (lanes,)
    words : ndarray, uint16, shape (num_words,)
    bases : ndarray, uint8, shape (n,)
        Lane after lane.
    model : Model
    steps : int
        Of every lane but the last, which has the rest.

    Returns
    -------
    ndarray, uint8, shape (n,)

    Raises
    ------
    PayloadError
        There are too few words, or too many.
    ValueError
        There are too few states, or bases that the model does not know: compiled code would not notice.
    """
    lanes = -(-bases.size // steps)
    if states.size < lanes or bases.max() >= model.prior.shape[0]:
        raise ValueError(f"{lanes} lanes with bases up to {bases.max()} do not fit what was given")
    symbols = np.empty(bases.size, np.uint8)
    after = np.ascontiguousarray(model.next_history).reshape(-1)
    history = np.zeros(lanes, np.uint8)
    counts = np.zeros(model.prior.size, np.int64)
    sizes = (steps, model.history_bits, model.alphabet)
    used, every = 0, counted_lanes(lanes)
    for begin, end in segments(steps):
        ends = np.cumsum(frequencies(counts, model=model), axis=1)
        bounds = np.pad(ends, ((0, 0), (1, 0))).astype(np.uint16).reshape(-1)
        before = history[::every].copy()
        used = _advance(states, history, bases, symbols, words, used, bounds, after, begin, end, *sizes)
        if used > words.size:
            raise PayloadError(f"{words.size} words are too few")
        if end < steps:
            _count(before, bases, symbols, counts, after, every, begin, end, *sizes)
    if used != words.size:
        raise PayloadError(f"{words.size - used} words are left over")
    return symbols


def find_nonzero(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places of what is not 0, ascending."""
    blocks = (symbols[start : start + _COUNTED_AT_ONCE] for start in range(0, symbols.size, _COUNTED_AT_ONCE))
    places = np.empty(sum(int(np.count_nonzero(block > 0)) for block in blocks) + 1, np.int64)
    _find(symbols, places)
    return places[:-1]


def _compile(signature: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at once; what was compiled before comes from numba's cache, if that can be read and written."""

    jit: Any = njit

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = jit([signature], nogil=True, cache=True)(function)
        except Exception as error:  # noqa: BLE001 - no folder to write to, or files damaged by a power cut
            _log.info("numba's cache is of no use here, compiling anew: %s", error)
            found = jit([signature], nogil=True)(function)
        return found

    return compiled


def _read_only(dtype: types.Type) -> types.Array:
    return types.Array(dtype, 1, "C", readonly=True)


_STATES, _BYTES, _COUNTS = types.uint32[::1], types.uint8[::1], types.int64[::1]
_TOLD, _WORDS = _read_only(types.uint8), _read_only(types.uint16)
_SIZES = (types.int64,) * 5  # begin, end, steps, history bits, alphabet


@_compile(types.int64(_STATES, _BYTES, _TOLD, _BYTES, _WORDS, types.int64, _WORDS, _TOLD, *_SIZES))
def _advance(
    states, history, bases, symbols, words, used, bounds, after, begin, end, steps, history_bits, alphabet
):
    """Decode a stretch of steps of all lanes, in place; return how many words that takes in all.

    It stops soon when they are too few.

    Parameters
    ----------
    states : ndarray, uint32, shape (lanes,)
        Or more than there are lanes, all but the last of which are whole.
    history : ndarray, uint8, shape (lanes,)
    bases, symbols : ndarray, uint8, shape (n,)
    words : ndarray, uint16, shape (num_words,)
    used : int
        Words that were taken before.
    bounds : ndarray, uint16, shape (contexts * (alphabet + 1),)
        Where the symbols of each context begin, and 4096.
    after : ndarray, uint8, shape (histories * alphabet,)
    """
    steps, size, row, shift = _U(steps), _U(alphabet), _U(alphabet + 1), _U(history_bits)
    taken, there, width = _U(used), _U(words.size), _U(_BLOCK)
    whole = (_U(bases.size) - _ONE) // steps
    short = _U(bases.size) - whole * steps
    near = np.empty(states.size * _BLOCK, np.uint8)
    for block in range(begin, end, _BLOCK):
        first, count = _U(block), _U(min(_BLOCK, end - block))
        rest = min(count, short - first) if first < short else _NONE
        for lane in range(whole):
            for step in range(count):
                near[lane * width + step] = bases[lane * steps + first + step]
        for step in range(rest):
            near[whole * width + step] = bases[whole * steps + first + step]
        for step in range(count):
            for lane in range(whole + _ONE if step < rest else whole):
                state, past, place = _U(states[lane]), _U(history[lane]), lane * width + step
                context = ((_U(near[place]) << shift) + past) * row
                slot = state & _SLOT
                symbol = _NONE
                if size == _FOUR:  # the magnitudes, nearly all there is
                    symbol += _U(slot >= _U(bounds[context + _ONE]))
                    symbol += _U(slot >= _U(bounds[context + _TWO]))
                    symbol += _U(slot >= _U(bounds[context + _THREE]))
                else:
                    for other in range(_ONE, size):
                        symbol += _U(slot >= _U(bounds[context + other]))
                start = _U(bounds[context + symbol])
                state = (_U(bounds[context + symbol + _ONE]) - start) * (state >> _BITS) + slot - start
                near[place] = symbol
                history[lane] = after[past * size + symbol]
                if state < _FLOOR:
                    if taken < there:
                        state = state << _WORD | _U(words[taken])
                    taken += _ONE
                states[lane] = state
        if taken > there:
            break
        for lane in range(whole):
            for step in range(count):
                symbols[lane * steps + first + step] = near[lane * width + step]
        for step in range(rest):
            symbols[whole * steps + first + step] = near[whole * width + step]
    return taken


@_compile(types.void(_BYTES, _TOLD, _BYTES, _COUNTS, _TOLD, types.int64, *_SIZES))
def _count(history, bases, symbols, counts, after, every, begin, end, steps, history_bits, alphabet):
    """Count what has been decoded in one of so many lanes; they had these histories before."""
    steps, size, shift = _U(steps), _U(alphabet), _U(history_bits)
    for number in range(_U(history.size)):
        lane, past = number * _U(every) * steps, _U(history[number])
        for place in range(lane + _U(begin), min(lane + _U(end), _U(bases.size))):
            symbol = _U(symbols[place])
            counts[((_U(bases[place]) << shift) + past) * size + symbol] += 1
            past = _U(after[past * size + symbol])


@_compile(types.void(_TOLD, _COUNTS))
def _find(symbols, places):
    """Write the places of what is not 0, and one more. To write every place is sooner than to guess which."""
    found = _NONE
    for place in range(_U(symbols.size)):
        places[found] = place
        found += _U(symbols[place] > 0)
