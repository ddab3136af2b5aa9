"""Frequency tables that learn: from a prior, and from what has been coded. SPEC.md, section 5.4."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBABILITY_BITS = 12
SCALE = 1 << PROBABILITY_BITS
_FIRST_REBUILD = 16
_COUNT_BLOCK = 1 << 16
_COUNTED = 256
_MANY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """What both ends know before the first symbol.

    Parameters
    ----------
    prior : ndarray, int64, shape (num_bases, num_histories, alphabet)
        Weights of the symbols in each context, in 4096ths of a symbol seen; at least 2 symbols. Histories are
        a power of two, and histories times alphabet at most 256.
    next_history : ndarray, uint8, shape (num_histories, alphabet)
        History of a lane after a symbol; lanes begin with history 0.
    depth : int
        After how many symbols a history has forgotten what was before them.
    trellis : bool
        Whether the upper two bits of a history never forget: they are the quantiser of the next symbol and
        that of the last one, which follow from the parities of all symbols (see `trellis`).
    """

    prior: NDArray[np.int64]
    next_history: NDArray[np.uint8]
    depth: int
    trellis: bool = False

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return int(self.prior.shape[2])

    @property
    def history_bits(self) -> int:
        """Bits that a history takes."""
        return int(self.prior.shape[1]).bit_length() - 1


def compact(bases: NDArray[np.uint8], *, model: Model) -> tuple[NDArray[np.uint8], Model]:
    """Number the bases that occur from 0, and keep a model of these: contexts do not know of each other.

    It saves time when tables are made; for many symbols, to look at all of them takes longer.
    """
    if bases.size > _MANY:
        return bases, model
    used = count_small(bases, size=256) > 0
    numbers = (np.cumsum(used) - 1).astype(np.uint8)
    return look_up(bases, numbers), replace(model, prior=model.prior[used[: len(model.prior)]])


def look_up(values: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``table[values]``; numpy would make an index of 8 bytes of each value first."""
    found = values.tobytes().translate(table.tobytes().ljust(256, b"\0"))
    return np.frombuffer(found, np.uint8).reshape(values.shape)


def count_small(values: NDArray[np.integer[Any]], *, size: int) -> NDArray[np.int64]:
    """Count values below `size`, in blocks: numpy's bincount first makes int64 of all it is given."""
    counts = np.zeros(size, np.int64)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _COUNT_BLOCK):
        counts += np.bincount(flat[start : start + _COUNT_BLOCK], minlength=size)
    return counts


def segments(steps: int) -> list[tuple[int, int]]:
    """Return the steps between rebuilds of the tables: 16, then half as many again each time."""
    bounds = [0]
    rebuild = _FIRST_REBUILD
    while rebuild < steps:
        bounds.append(rebuild)
        rebuild += rebuild // 2
    return list(zip(bounds, [*bounds[1:], steps], strict=True))


def stretches(begin: int, end: int, *, short: int, lanes: int) -> list[tuple[int, int, int]]:
    """Cut steps where the last lane ends; returns begin, end and active lanes of what is not empty."""
    turn = min(max(short, begin), end)
    parts = [(begin, turn, lanes), (turn, end, lanes - 1)]
    return [part for part in parts if part[0] < part[1]]


def counted_lanes(lanes: int) -> int:
    """Return of how many lanes one is counted: some hundreds of them tell enough."""
    return max(lanes // _COUNTED, 1)


def frequencies(counts: NDArray[np.int64], *, model: Model) -> NDArray[np.int64]:
    """Return integer frequencies, shape (contexts, alphabet), at least 1 each, 4096 in each context."""
    alphabet = model.alphabet
    scores = (counts << PROBABILITY_BITS).reshape(-1, alphabet) + model.prior.reshape(-1, alphabet)
    found: NDArray[np.int64] = 1 + scores * (SCALE - alphabet) // scores.sum(axis=1, keepdims=True)
    rest = SCALE - found.sum(axis=1)
    found[np.arange(len(scores)), scores.argmax(axis=1)] += rest
    return found
