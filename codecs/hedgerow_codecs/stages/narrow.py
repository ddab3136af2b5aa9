"""The coder's loops for one lane: plain Python, one symbol at a time.

A step of numpy calls costs as much as some twenty symbols do here, and a small message has no more lanes.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.adaptive import PROBABILITY_BITS, SCALE, Model, count_small, frequencies, segments


def encode_narrow(
    cells: NDArray[np.uint16], tables: list[tuple[int, int, NDArray[np.int64]]], state: int
) -> tuple[int, NDArray[np.uint16]]:
    """Encode symbols, last one first; returns the state and the words.

    Parameters
    ----------
    cells : ndarray, uint16, shape (steps,)
        Context times alphabet plus symbol.
    tables : list
        First step, step behind the last, and frequencies in between.
    state : int
    """
    emitted = []
    for begin, end, table in reversed(tables):
        chosen = cells[begin:end][::-1]
        f_all = table.reshape(-1)[chosen]
        c_all = (np.cumsum(table, axis=1) - table).reshape(-1)[chosen]
        most_all, gaps = f_all << 32 - PROBABILITY_BITS, SCALE - f_all
        rows = zip(f_all.tolist(), most_all.tolist(), gaps.tolist(), c_all.tolist(), strict=True)
        for f, most, gap, c in rows:
            if state >= most:
                emitted.append(state & 0xFFFF)
                state >>= 16
            state += state // f * gap + c  # quotient * 4096 + remainder + start
    return state, np.array(emitted[::-1], np.uint16)


def decode_narrow(
    state: int, words: NDArray[np.uint16], bases: NDArray[np.uint8], *, model: Model
) -> tuple[int, NDArray[np.uint8]]:
    """Decode symbols; returns the state at the end and the symbols, uint8, shape (steps,)."""
    alphabet = model.alphabet
    waiting = iter(words.tolist())
    after = np.tile(model.next_history, (model.prior.shape[0], 1)).reshape(-1).tolist()
    contexts = (bases.astype(np.int64) << model.history_bits).tolist()
    counts = np.zeros(model.prior.size, np.int64)
    history, found = 0, []
    for begin, end in segments(bases.size):
        bounds = np.cumsum(frequencies(counts, model=model), axis=1)
        rows = np.concatenate([np.zeros((len(bounds), 1), np.int64), bounds], axis=1).tolist()
        cells: list[int] = []
        note = cells.append
        for context in contexts[begin:end]:
            context += history
            row, slot = rows[context], state & 0xFFF
            f = row[1]
            if slot < f:  # most symbols are the first: no need to search
                place = 1
                state = f * (state >> PROBABILITY_BITS) + slot
            else:
                place = bisect_right(row, slot)
                start = row[place - 1]
                state = (row[place] - start) * (state >> PROBABILITY_BITS) + slot - start
            if state < 0x10000:
                word = next(waiting, None)
                if word is None:
                    raise PayloadError(f"{words.size} words are too few")
                state = state << 16 | word
            cell = context * alphabet + place - 1
            history = after[cell]
            note(cell)
        found.append(np.array(cells, np.uint16))
        counts += count_small(found[-1], size=counts.size)
    if next(waiting, None) is not None:
        raise PayloadError("words are left over")
    return state, (np.concatenate(found) % alphabet).astype(np.uint8)
