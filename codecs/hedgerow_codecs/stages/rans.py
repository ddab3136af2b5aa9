"""Adaptive interleaved rANS (Duda 2013, Giesen 2014) in integer numpy.

Symbols are cut into contiguous stretches, one for each lane, and all lanes advance together, so that what a
lane has coded is context for its next symbol. Tables start from a prior and are rebuilt from what has been
coded, at fixed steps: nothing about them is sent. A lane's first state holds 16 bits of somebody else's
data, so that lanes cost nothing as long as there are raw bits to put in. All arithmetic is on integers:
SPEC.md, section 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError

PROBABILITY_BITS = 12
MAX_STEPS = 1 << 14
_SCALE = 1 << PROBABILITY_BITS
_FIRST_REBUILD = 16
_BLOCK = 64
_COUNT_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """What both ends know before the first symbol.

    Parameters
    ----------
    prior : ndarray, int64, shape (num_bases, num_memories, alphabet)
        Weights of the symbols in each context, in 4096ths of a symbol seen; at least 2 symbols.
    next_state : ndarray, uint8, shape (num_states, alphabet)
        State of a lane after a symbol; lanes begin in state 0. At most 256 entries.
    memory : ndarray, uint8, shape (num_states,)
        Which memory a state stands for.
    """

    prior: NDArray[np.int64]
    next_state: NDArray[np.uint8]
    memory: NDArray[np.uint8]

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return int(self.prior.shape[2])


def encode_symbols(
    symbols: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    *,
    model: Model,
    lanes: int,
    stowed: NDArray[np.uint16],
) -> bytes:
    """Encode symbols, each in its base context.

    Parameters
    ----------
    symbols, bases : ndarray, uint8, shape (n,)
        n from 1.
    model : Model
    lanes : int
        1 to n inclusive.
    stowed : ndarray, uint16, shape (num_lanes(n, lanes),)
        Data to carry in the lanes' first states.

    Returns
    -------
    bytes
        The lanes' states, 4 bytes each, and 16-bit words.
    """
    bases, model = _compact(bases, model=model)
    steps, lanes = grid_shape(symbols.size, lanes)
    short = symbols.size - (lanes - 1) * steps  # the last lane's length
    by_step = _by_step(symbols, steps=steps, lanes=lanes)
    cells = _cells(by_step, _by_step(bases, steps=steps, lanes=lanes), model=model)
    tables = _tables_by_segment(cells, model=model, short=short)
    states = stowed.astype(np.uint32) | np.uint32(1 << 16)
    emitted: list[NDArray[np.uint16]] = []
    for begin, end, frequencies in reversed(tables):
        flat_frequencies = frequencies.reshape(-1).astype(np.uint32)
        starts = (np.cumsum(frequencies, axis=1) - frequencies).reshape(-1).astype(np.uint32)
        for block in range(begin + (end - 1 - begin) // _BLOCK * _BLOCK, begin - 1, -_BLOCK):
            chosen = cells[block : min(block + _BLOCK, end)]
            f_block, c_block = flat_frequencies[chosen], starts[chosen]
            for step in range(chosen.shape[0] - 1, -1, -1):
                active = lanes if block + step < short else lanes - 1
                state, f = states[:active], f_block[step, :active]
                full = np.flatnonzero(state >= f << np.uint32(32 - PROBABILITY_BITS))
                if full.size:
                    spilt = state[full]
                    emitted.append(spilt.astype(np.uint16))
                    state[full] = spilt >> np.uint32(16)
                quotient = state // f
                # quotient * 4096 + remainder + start
                state[:] = quotient * (np.uint32(_SCALE) - f) + state + c_block[step, :active]
    words = np.concatenate(emitted[::-1]) if emitted else np.zeros(0, np.uint16)
    return states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def decode_symbols(
    data: bytes, bases: NDArray[np.uint8], *, model: Model, lanes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Decode as many symbols as there are base contexts.

    Returns
    -------
    symbols : ndarray, uint8, shape (n,)
    stowed : ndarray, uint16, shape (num_lanes,)

    Raises
    ------
    PayloadError
        `data` is not what `encode_symbols` gives for any `n` symbols.
    """
    bases, model = _compact(bases, model=model)
    steps, lanes = grid_shape(bases.size, lanes)
    short = bases.size - (lanes - 1) * steps
    if len(data) < 4 * lanes or len(data) % 2:
        raise PayloadError(f"{len(data)} bytes do not hold {lanes} lanes")
    states = np.frombuffer(data, "<u4", count=lanes).astype(np.uint32)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint32)
    if np.any(states < 1 << 16):
        raise PayloadError("a lane starts below its range")
    base_grid = _by_step(bases * np.uint8(model.prior.shape[1]), steps=steps, lanes=lanes)
    next_row, memory = _walk(model)
    shifted_memory = memory.astype(np.uint32) << np.uint32(PROBABILITY_BITS)
    rows = np.zeros(lanes, np.uint8)
    found = np.zeros((steps, lanes), np.uint8)
    counts = np.zeros(model.prior.size, np.int64)
    used = 0
    for begin, end in _segments(steps):
        lookup = _lookup(_frequencies(counts, model=model))
        for block in range(begin, end, _BLOCK):
            until = min(block + _BLOCK, end)
            indices = base_grid[block:until].astype(np.uint32) << np.uint32(PROBABILITY_BITS)
            for step in range(block, until):
                active = lanes if step < short else lanes - 1
                state, row, index = states[:active], rows[:active], indices[step - block, :active]
                index += shifted_memory[row]
                entry = lookup[index | (state & np.uint32(_SCALE - 1))]
                state >>= np.uint32(PROBABILITY_BITS)
                state *= (entry >> np.uint32(12)) & np.uint32(_SCALE - 1)
                state += entry & np.uint32(_SCALE - 1)
                entry >>= np.uint32(24)
                found[step, :active] = entry
                row += found[step, :active]
                rows[:active] = next_row[row]
                (hungry,) = (state < 1 << 16).nonzero()
                if hungry.size:
                    if used + hungry.size > words.size:
                        raise PayloadError(f"{words.size} words are too few")
                    state[hungry] = (state[hungry] << np.uint32(16)) | words[used : used + hungry.size]
                    used += hungry.size
            indices >>= np.uint32(PROBABILITY_BITS)
            indices *= np.uint32(model.alphabet)
            indices += found[block:until]
            counts += _count(indices, size=counts.size, short=short - block)
    if used != words.size or np.any(states >> np.uint32(16) != 1):
        raise PayloadError("coded symbols end in a state that no encoder starts from")
    return found.T.reshape(-1)[: bases.size].copy(), (states & np.uint32(0xFFFF)).astype(np.uint16)


def grid_shape(count: int, lanes: int) -> tuple[int, int]:
    """Return the number of steps and of lanes that are really used, for a wish of `lanes` lanes.

    Raises
    ------
    PayloadError
        No lanes, more lanes than symbols, or more than `MAX_STEPS` steps.
    """
    if not 1 <= lanes <= count or -(-count // lanes) > MAX_STEPS:
        raise PayloadError(f"{count} symbols cannot be coded in {lanes} lanes")
    steps = -(-count // lanes)
    return steps, -(-count // steps)


def _compact(bases: NDArray[np.uint8], *, model: Model) -> tuple[NDArray[np.uint8], Model]:
    """Number the bases that occur from 0, and keep a model of these: contexts do not know of each other."""
    used = count_small(bases, size=256) > 0
    numbers = (np.cumsum(used) - 1).astype(np.uint8)
    return numbers[bases], replace(model, prior=model.prior[used[: len(model.prior)]])


def _by_step(values: NDArray[np.uint8], *, steps: int, lanes: int) -> NDArray[np.uint8]:
    """Lay lanes side by side, shape (steps, lanes), the last lane padded with zeros."""
    padded = np.zeros(steps * lanes, np.uint8)
    padded[: values.size] = values
    return np.ascontiguousarray(padded.reshape(lanes, steps).T)


def _cells(by_step: NDArray[np.uint8], bases: NDArray[np.uint8], *, model: Model) -> NDArray[np.uint16]:
    """Return context times alphabet plus symbol, shape (steps, lanes)."""
    next_row, memory = _walk(model)
    rows = np.zeros(by_step.shape[1], np.uint8)
    cells = bases.astype(np.uint16)
    cells *= np.uint16(model.prior.shape[1])
    for step in range(by_step.shape[0]):
        cells[step] += memory[rows]
        rows += by_step[step]
        rows = next_row[rows]
    cells *= np.uint16(model.alphabet)
    cells += by_step
    return cells


def _walk(model: Model) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return next state and memory, indexed by the place of a state's row in a table of states by symbols.

    A lane's state is kept as that place, so that adding the symbol gives the place of its next state.
    """
    places = model.next_state.reshape(-1) * np.uint8(model.alphabet)
    return places, np.repeat(model.memory, model.alphabet)


def count_small(values: NDArray[np.integer[Any]], *, size: int) -> NDArray[np.int64]:
    """Count values below `size`, in blocks: numpy's bincount first makes int64 of all it is given."""
    counts = np.zeros(size, np.int64)
    for start in range(0, values.size, _COUNT_BLOCK):
        counts += np.bincount(values[start : start + _COUNT_BLOCK], minlength=size)
    return counts


def _segments(steps: int) -> list[tuple[int, int]]:
    """Return the steps between rebuilds of the tables: 16, then half as many again each time."""
    bounds = [0]
    rebuild = _FIRST_REBUILD
    while rebuild < steps:
        bounds.append(rebuild)
        rebuild += rebuild // 2
    return list(zip(bounds, [*bounds[1:], steps], strict=True))


def _tables_by_segment(
    cells: NDArray[np.uint16], *, model: Model, short: int
) -> list[tuple[int, int, NDArray[np.int64]]]:
    counts = np.zeros(model.prior.size, np.int64)
    tables = []
    for begin, end in _segments(cells.shape[0]):
        tables.append((begin, end, _frequencies(counts, model=model)))
        counts += _count(cells[begin:end], size=counts.size, short=short - begin)
    return tables


def _count(cells: NDArray[np.integer[Any]], *, size: int, short: int) -> NDArray[np.int64]:
    """Count the cells of a stretch of steps whose last lane ends after `short` of them."""
    beyond = np.bincount(cells[max(short, 0) :, -1].astype(np.int64), minlength=size)
    return count_small(cells.reshape(-1), size=size) - beyond


def _frequencies(counts: NDArray[np.int64], *, model: Model) -> NDArray[np.int64]:
    """Return integer frequencies, shape (contexts, alphabet), at least 1 each, 4096 in each context."""
    alphabet = model.alphabet
    scores = (counts << PROBABILITY_BITS).reshape(-1, alphabet) + model.prior.reshape(-1, alphabet)
    frequencies: NDArray[np.int64] = 1 + scores * (_SCALE - alphabet) // scores.sum(axis=1, keepdims=True)
    rest = _SCALE - frequencies.sum(axis=1)
    frequencies[np.arange(len(scores)), scores.argmax(axis=1)] += rest
    return frequencies


def _lookup(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return symbol, frequency and offset of each slot of each context, packed, shape (contexts * 4096,)."""
    contexts, alphabet = frequencies.shape
    starts = np.cumsum(frequencies, axis=1) - frequencies
    symbols = np.tile(np.arange(alphabet), contexts)
    # An offset is slot - start; the slot is added for all at once.
    heads = (symbols << 24) + (frequencies.reshape(-1) << 12) - starts.reshape(-1)
    spread = np.repeat(heads.astype(np.uint32), frequencies.reshape(-1)).reshape(contexts, _SCALE)
    spread += np.arange(_SCALE, dtype=np.uint32)
    return spread.reshape(-1)
