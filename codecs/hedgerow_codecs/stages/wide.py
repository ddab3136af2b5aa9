"""The coder's loops for many lanes: numpy, one step of all lanes at a time.

A step costs as many microseconds as it has numpy calls, whatever the lanes: nothing is done in it that can be
done for a block of steps before or behind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.adaptive import (
    PROBABILITY_BITS,
    SCALE,
    Model,
    count_small,
    counted_lanes,
    frequencies,
    segments,
    stretches,
)

_BLOCK = 64
_ENCODED_AT_ONCE = 32  # steps: each takes 24 bytes for every lane
_FREQUENCY_SHIFT = 20
# A number to be combined with an array is an array itself: numpy takes it sooner than a scalar.
_LOW = np.array([SCALE - 1], np.uint32)
_BITS = np.array([PROBABILITY_BITS], np.uint32)
_SCALE = np.array([SCALE], np.uint32)
_SHIFT = np.array([_FREQUENCY_SHIFT], np.uint32)
_WORD = np.array([16], np.uint32)
_FLOOR = np.array([1 << 16], np.uint32)


def encode_wide(
    cells: NDArray[np.uint16],
    tables: list[tuple[int, int, NDArray[np.int64]]],
    states: NDArray[np.uint32],
    *,
    short: int,
) -> NDArray[np.uint16]:
    """Encode symbols, last step first; changes `states` and returns the words.

    Parameters
    ----------
    cells : ndarray, uint16, shape (lanes, steps)
        Context times alphabet plus symbol.
    tables : list
        First step, step behind the last, and frequencies in between.
    states : ndarray, uint32, shape (lanes,)
    short : int
        Steps of the last lane.
    """
    lanes = states.size
    emitted: list[NDArray[np.uint16]] = []
    full, quotient = np.empty(lanes, np.bool_), np.empty(lanes, np.uint32)
    for begin, end, table in reversed(tables):
        starts = np.cumsum(table, axis=1) - table
        pairs = (table << PROBABILITY_BITS | starts).reshape(-1).astype(np.uint32)
        for block in reversed(range(begin, end, _ENCODED_AT_ONCE)):
            until = min(block + _ENCODED_AT_ONCE, end)
            for first, behind, width in reversed(stretches(block, until, short=short, lanes=lanes)):
                chosen = cells[:width, first:behind].T.astype(np.intp, order="C")
                c_rows = pairs.take(chosen, mode="wrap")
                f_rows = c_rows >> _BITS
                c_rows &= _LOW
                # A state that would grow beyond 32 bits: f 2^20 - 1 is below 2^32 where f 2^20 is not.
                most_rows = (f_rows << _SHIFT) - np.uint32(1)
                gap_rows = _SCALE - f_rows
                state, over, part = states[:width], full[:width], quotient[:width]
                for step in range(behind - first - 1, -1, -1):
                    np.greater(state, most_rows[step], over)
                    (places,) = over.nonzero()
                    if len(places):
                        spilt = state[places]
                        emitted.append(spilt.astype(np.uint16))
                        state[places] = spilt >> _WORD
                    # quotient * 4096 + remainder + start
                    np.floor_divide(state, f_rows[step], part)
                    np.multiply(part, gap_rows[step], part)
                    np.add(state, part, state)
                    np.add(state, c_rows[step], state)
    return np.concatenate(emitted[::-1]) if emitted else np.zeros(0, np.uint16)


def decode_wide(
    states: NDArray[np.uint32],
    words: NDArray[np.uint16],
    bases: NDArray[np.uint8],
    *,
    model: Model,
    short: int,
) -> NDArray[np.uint8]:
    """Decode symbols; changes `states`.

    Parameters
    ----------
    states : ndarray, uint32, shape (lanes,)
    words : ndarray, uint16, shape (num_words,)
    bases : ndarray, uint8, shape (lanes, steps)
    model : Model
    short : int
        Steps of the last lane.

    Returns
    -------
    ndarray, uint8, shape (lanes, steps)
    """
    lanes, steps = bases.shape
    symbol_shift = np.uint32(PROBABILITY_BITS + model.history_bits)
    kept = np.array([(1 << int(symbol_shift)) - SCALE], np.uint32)
    source = _Words(words)
    symbols = np.full((lanes, steps), 0, np.uint8)  # sooner than zeros(), as in `DecodedUpdate.values`
    history = np.zeros(lanes, np.uint32)
    counts = np.zeros(model.prior.size, np.int64)
    for begin, end in segments(steps):
        lookup = np.zeros(
            0, np.uint32
        )  # the table before goes before the next one is made: they are megabytes
        lookup = _lookup(frequencies(counts, model=model), model=model)
        for block in range(begin, end, _BLOCK):
            until = min(block + _BLOCK, end)
            for first, behind, width in stretches(block, until, short=short, lanes=lanes):
                indices = bases[:width, first:behind].T.astype(np.uint32, order="C")
                indices <<= symbol_shift
                entries = np.empty_like(indices)
                state, past = states[:width], history[:width]
                _advance(state, past, indices, entries, lookup=lookup, kept=kept, source=source)
                entries &= np.uint32((1 << _FREQUENCY_SHIFT) - 1)
                entries >>= symbol_shift
                symbols[:width, first:behind] = entries.astype(np.uint8).T  # sooner than a cast on the way
                if end < steps:
                    seen = indices[:, :: counted_lanes(lanes)] >> _BITS
                    seen *= np.uint32(model.alphabet)
                    seen += entries[:, :: counted_lanes(lanes)]
                    counts += count_small(seen, size=counts.size)
    source.check_end()
    return symbols


class _Words:
    """Words and how many of them have been taken."""

    def __init__(self, words: NDArray[np.uint16]) -> None:
        self._words = words.astype(np.uint32)
        self._used = 0

    def take(self, count: int) -> NDArray[np.uint32]:
        self._used += count
        if self._used > self._words.size:
            raise PayloadError(f"{self._words.size} words are too few")
        return self._words[self._used - count : self._used]

    def check_end(self) -> None:
        if self._used != self._words.size:
            raise PayloadError(f"{self._words.size - self._used} words are left over")


def _advance(
    state: NDArray[np.uint32],
    history: NDArray[np.uint32],
    indices: NDArray[np.uint32],
    entries: NDArray[np.uint32],
    *,
    lookup: NDArray[np.uint32],
    kept: NDArray[np.uint32],
    source: _Words,
) -> None:
    """Decode a stretch of steps, in place.

    The rows of `indices` come as base contexts and leave as the places looked up; `history` is kept where it
    is in an entry, which `kept` cuts out.
    """
    part, hungry = np.empty_like(state), np.empty(state.shape, np.bool_)
    for index, entry in zip(indices, entries, strict=True):
        np.bitwise_and(state, _LOW, part)
        np.add(index, history, index)
        np.add(index, part, index)
        lookup.take(index, out=entry, mode="wrap")
        np.bitwise_and(entry, kept, history)
        np.right_shift(state, _BITS, state)
        np.right_shift(entry, _SHIFT, part)
        np.multiply(state, part, state)
        np.bitwise_and(entry, _LOW, part)
        np.add(state, part, state)
        np.less(state, _FLOOR, hungry)
        (places,) = hungry.nonzero()
        if len(places):
            state[places] = (state[places] << _WORD) | source.take(len(places))


def _lookup(table: NDArray[np.int64], *, model: Model) -> NDArray[np.uint32]:
    """Return what each slot of each context means, shape (contexts * 4096,).

    From the highest bit: frequency (12 bits), symbol, next history, and slot minus start (12 bits).
    """
    contexts, alphabet = table.shape
    starts = np.cumsum(table, axis=1) - table
    after = np.arange(alphabet) << model.history_bits | model.next_history
    heads = (
        (table << _FREQUENCY_SHIFT) - starts + (np.tile(after, (model.prior.shape[0], 1)) << PROBABILITY_BITS)
    )
    # The slot is added for all at once.
    slots = np.repeat(heads.reshape(-1).astype(np.uint32), table.reshape(-1)).reshape(contexts, SCALE)
    slots += np.arange(SCALE, dtype=np.uint32)
    return slots.reshape(-1)
