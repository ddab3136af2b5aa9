"""Adaptive interleaved rANS (Duda 2013, Giesen 2014) on integers.

Symbols are cut into contiguous stretches, one for each lane, and all lanes advance together, so that what a
lane has coded is context for its next symbol. Tables start from a prior and are rebuilt from what has been
coded, at fixed steps: nothing about them is sent. A lane's first state holds 16 bits of somebody else's
data, so that lanes cost next to nothing as long as there are raw bits to put in. SPEC.md, section 5.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.adaptive import (
    Model,
    compact,
    count_small,
    counted_lanes,
    frequencies,
    look_up,
    segments,
    stretches,
)
from hedgerow_codecs.stages.compiled import compiled_loops
from hedgerow_codecs.stages.narrow import decode_narrow, encode_narrow
from hedgerow_codecs.stages.trellis import quantizer_bits
from hedgerow_codecs.stages.wide import decode_wide, encode_wide

MAX_STEPS = 1 << 14
MAX_STEPS_ALONE = 1 << 17
"""Of a single lane, which takes less time for a step."""
_BLOCK = 1 << 18


def encode_symbols(
    symbols: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    *,
    model: Model,
    lanes: int,
    stowed: NDArray[np.uint16],
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Encode symbols, each in its base context.

    Parameters
    ----------
    symbols, bases : ndarray, uint8, shape (n,)
        n from 1.
    model : Model
    lanes : int
        As `grid_shape` returns them.
    stowed : ndarray, uint16, shape (lanes,)
        Data to carry in the lanes' first states.

    Returns
    -------
    states : ndarray, uint32, shape (lanes,)
        Each at least 2**16.
    words : ndarray, uint16, shape (num_words,)
    """
    bases, model = compact(bases, model=model)
    steps, lanes = grid_shape(symbols.size, lanes)
    short = symbols.size - (lanes - 1) * steps  # the last lane's length
    cells = _cells(symbols, bases, model, shape=(lanes, steps))
    tables = _tables(cells, model=model, short=short)
    states = stowed.astype(np.uint32) | np.uint32(1 << 16)
    if lanes > 1:
        return states, encode_wide(cells, tables, states, short=short)
    states[0], words = encode_narrow(cells[0], tables, int(states[0]))
    return states, words


def decode_symbols(
    states: NDArray[np.uint32],
    words: NDArray[np.uint16],
    bases: NDArray[np.uint8],
    *,
    model: Model,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Decode as many symbols as there are base contexts.

    Returns
    -------
    symbols : ndarray, uint8, shape (n,)
    stowed : ndarray, uint16, shape (lanes,)

    Raises
    ------
    PayloadError
        The words do not end where the symbols do, or in states that no encoder starts from.
    """
    states = states.copy()
    bases, model = compact(bases, model=model)
    steps, lanes = grid_shape(bases.size, states.size)
    loops = compiled_loops(bases.size)
    if loops is not None:
        symbols = loops.decode_lanes(states, words, bases, model=model, steps=steps)
    elif lanes > 1:
        by_lane = _by_lane(bases, steps=steps, lanes=lanes)
        short = bases.size - (lanes - 1) * steps
        symbols = decode_wide(states, words, by_lane, model=model, short=short).reshape(-1)[: bases.size]
    else:
        states[0], symbols = decode_narrow(int(states[0]), words, bases, model=model)
    if np.any(states >> np.uint32(16) != 1):
        raise PayloadError("coded symbols end in a state that no encoder starts from")
    return symbols, (states & np.uint32(0xFFFF)).astype(np.uint16)


def grid_shape(count: int, lanes: int) -> tuple[int, int]:
    """Return the number of steps and of lanes that are really used, for a wish of `lanes` lanes.

    Raises
    ------
    PayloadError
        No lanes, more lanes than symbols, or more than `MAX_STEPS` steps (alone, `MAX_STEPS_ALONE`).
    """
    most = MAX_STEPS_ALONE if lanes == 1 else MAX_STEPS
    if not 1 <= lanes <= count or -(-count // lanes) > most:
        raise PayloadError(f"{count} symbols cannot be coded in {lanes} lanes")
    steps = -(-count // lanes)
    return steps, -(-count // steps)


def _by_lane(values: NDArray[np.uint8], *, steps: int, lanes: int) -> NDArray[np.uint8]:
    """Return lanes as rows, shape (lanes, steps), the last one padded with zeros."""
    if values.size == steps * lanes:
        return values.reshape(lanes, steps)
    padded = np.empty(steps * lanes, np.uint8)
    padded[: values.size], padded[values.size :] = values, 0
    return padded.reshape(lanes, steps)


def _cells(
    symbols: NDArray[np.uint8], bases: NDArray[np.uint8], model: Model, *, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """Return context times alphabet plus symbol, shape (lanes, steps)."""
    lanes, steps = shape
    cells = np.empty(shape, np.uint16)
    at_once = max(_BLOCK // steps, 1)  # lanes know nothing of each other: what is made on the way stays small
    for first in range(0, lanes, at_once):
        width = min(at_once, lanes - first)
        part = slice(first * steps, (first + width) * steps)
        cells[first : first + width] = _cells_of_lanes(
            _by_lane(symbols[part], steps=steps, lanes=width),
            _by_lane(bases[part], steps=steps, lanes=width),
            model,
        )
    return cells


def _cells_of_lanes(symbols: NDArray[np.uint8], bases: NDArray[np.uint8], model: Model) -> NDArray[np.uint16]:
    alphabet = np.uint8(model.alphabet)
    history = np.zeros_like(symbols)
    table = model.next_history.reshape(-1)
    # Histories are walks of the last symbols only: each lag is one step of all walks at once.
    for lag in range(min(model.depth, symbols.shape[1] - 1), 0, -1):
        history[:, lag:] = look_up(history[:, lag:] * alphabet + symbols[:, :-lag], table)
    if model.trellis:
        quantizer = quantizer_bits(symbols & 1 > 0).astype(np.uint8)
        upper = np.uint8(model.history_bits - 1)
        history &= np.uint8((1 << (int(upper) - 1)) - 1)
        history += quantizer << upper
        history[:, 1:] += quantizer[:, :-1] << (upper - np.uint8(1))
    cells = bases.astype(np.uint16)
    cells <<= np.uint16(model.history_bits)
    cells += history
    cells *= np.uint16(alphabet)
    cells += symbols
    return cells


def _tables(
    cells: NDArray[np.uint16], *, model: Model, short: int
) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Return the frequencies of each segment of steps."""
    lanes, steps = cells.shape
    counts = np.zeros(model.prior.size, np.int64)
    tables = []
    for begin, end in segments(steps):
        tables.append((begin, end, frequencies(counts, model=model)))
        if end < steps:
            for first, behind, width in stretches(begin, end, short=short, lanes=lanes):
                seen = cells[: width : counted_lanes(lanes), first:behind]
                counts += count_small(seen, size=counts.size)
    return tables
