"""The context coder: codes to bytes by rANS, in contexts of energy class and of what the lane coded before.

Position and entropy stage in one. SPEC.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.adaptive import Model
from hedgerow_codecs.stages.compiled import compiled_loops
from hedgerow_codecs.stages.energy import EVEN, Levels, fit_all_levels, geometry
from hedgerow_codecs.stages.magnitude import (
    FIRST_BUCKETED,
    NUM_BUCKETS,
    bucket,
    low_bits,
    read_unary,
    unary,
    unbucket,
)
from hedgerow_codecs.stages.models import (
    excess_model,
    index_model,
    level_model,
    magnitude_model,
    sign_model,
)
from hedgerow_codecs.stages.pattern import Patterns, fit_patterns, relations
from hedgerow_codecs.stages.rans import MAX_STEPS_ALONE, decode_symbols, encode_symbols, grid_shape
from hedgerow_codecs.stages.reader import Cargo, Reader, varint, write_section
from hedgerow_codecs.stages.signal import Signal
from hedgerow_codecs.stages.told import Told
from hedgerow_codecs.stages.trellis import path_of, to_units

_SYMBOLS_PER_LANE = 1024
_SIGNS_PER_LANE = 512
_ONE_BY_ONE = 1 << 14
_MIN_STEPS, _LONG_STEPS = 384, 4096
_CARGO_FOR_EACH = 6
_FASTER = 28
_SMALL = 1 << 16
_FEW_LEVELS = _FEW_EXCESSES = 32
_FEW_SIGNS = 128
_BLOCK = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCoder:
    """Writes levels, small magnitudes, excesses, signs and low bits; reads them back.

    Parameters
    ----------
    signed : bool
        False for codes that are never negative: then there are no signs.
    trellis : bool
        Whether codes are on a path through two quantisers (see `trellis`); then `encode_path` writes them.
    """

    signed: bool = True
    trellis: bool = False

    def encode(self, signal: Signal) -> Signal:
        if not signal.codes.size:
            return replace(signal, data=b"\0" + signal.data)
        magnitudes = np.abs(signal.codes)
        fits = [fit_all_levels(signal.positions, magnitudes, mask=signal.mask)]
        if signal.mask.num_live <= _SMALL:
            # Estimates of what levels are worth are off by some bytes, which here are many: try without, too.
            fits.append(fit_all_levels(signal.positions, magnitudes, mask=signal.mask, flat=True))
        data = min((self._write(signal, magnitudes, levels) for levels in fits), key=len)
        return replace(signal, data=data + signal.data)

    def encode_path(self, signal: Signal, indices: NDArray[np.int64], levels: list[Levels]) -> Signal:
        """Write codes as the indices of a path through the entries whose class by `levels` is not 0.

        Parameters
        ----------
        signal : Signal
            With positions and codes.
        indices : ndarray, int64, shape (k,)
            Of the codes, from 1.
        levels : list of Levels
            Of every tensor.
        """
        return replace(signal, data=self._write(signal, indices, levels) + signal.data)

    def _write(
        self, signal: Signal, magnitudes: NDArray[np.signedinteger[Any]], levels: list[Levels]
    ) -> bytes:
        told = Told.by(levels, mask=signal.mask)
        bases = told.bases
        symbols = np.zeros(bases.size, np.uint8)
        large = magnitudes >= FIRST_BUCKETED
        excess_bases = []
        for chosen, indices in told.indices(signal.positions):
            symbols[indices] = self._symbols(magnitudes[chosen])
            excess_bases.append(bases[indices[large[chosen]]])
        del told  # coding takes its most memory behind this
        buckets, lows = bucket((magnitudes[large] - FIRST_BUCKETED) // self._stride)

        # What is read last is written first: it rides in the first states of lanes that are read before it.
        negative = signal.codes < 0 if self.signed else np.zeros(0, np.bool_)
        signs = _write_signs(signal, levels) if negative.size >= _FEW_SIGNS else b""
        raw = [negative if negative.size < _FEW_SIGNS else negative[:0]]
        raw.append(unary(buckets) if buckets.size < _FEW_EXCESSES else np.zeros(0, np.bool_))
        cargo = Cargo(signs + np.packbits(np.concatenate([*raw, lows]), bitorder="little").tobytes())
        level_section = _write_levels(levels, cargo=cargo)
        wish = _few_lanes(symbols.size) if self.trellis else _choose_lanes(symbols.size, cargo=cargo)
        lanes = grid_shape(symbols.size, wish)[1]
        parts = [varint(lanes), _modes(levels, mask=signal.mask), level_section]
        parts.append(_write(symbols, bases, model=self._model(), lanes=lanes, cargo=cargo))
        if buckets.size >= _FEW_EXCESSES:
            alphabet = max(int(buckets.max()) + 1, 2)
            parts.append(bytes([alphabet]))
            excess = np.concatenate(excess_bases)
            parts.append(_write(buckets, excess, model=excess_model(alphabet), cargo=cargo))
        return b"".join([*parts, cargo.rest()])

    def decode(self, signal: Signal) -> Signal:
        reader = Reader(signal.data)
        lanes = reader.varint()
        if lanes == 0:
            return replace(signal, data=reader.rest())
        levels = _read_levels(reader, mask=signal.mask)
        told = Told.by(levels, mask=signal.mask)
        bases = told.bases
        symbols = _read(reader, bases, model=self._model(), lanes=lanes)
        loops = compiled_loops()
        # Of truth values, numpy finds places six times as fast as of numbers.
        found = np.flatnonzero(symbols > 0) if loops is None else loops.find_nonzero(symbols)
        indices = found.astype(np.int64, copy=False)
        magnitudes = symbols[indices].astype(np.int32)
        quantizer = path_of(symbols & 1 > 0, lanes=lanes)[indices] if self.trellis else None
        del symbols  # the positions take the most memory
        positions = told.positions(indices)
        large = np.flatnonzero(magnitudes >= FIRST_BUCKETED)
        buckets = np.zeros(0, np.uint8)
        if large.size >= _FEW_EXCESSES:
            alphabet = reader.byte()
            if not 2 <= alphabet <= NUM_BUCKETS:
                raise PayloadError(f"an alphabet has 2 to {NUM_BUCKETS} symbols, not {alphabet}")
            excess_bases = bases[indices[large]]
            buckets = _read(reader, excess_bases, model=excess_model(alphabet))
        reader.unload()
        negative = np.zeros(positions.size if self.signed else 0, np.bool_)
        if negative.size >= _FEW_SIGNS:
            negative = _read_signs(reader, positions, levels, mask=signal.mask)
        elif negative.size:
            negative = reader.bits(negative.size)
        if 0 < large.size < _FEW_EXCESSES:
            buckets = read_unary(reader, count=large.size)
        for start in range(0, large.size, _BLOCK):  # in blocks: each raw bit takes dozens of bytes on its way
            some = buckets[start : start + _BLOCK]
            raw = reader.bits(int(low_bits(some).sum()))
            magnitudes[large[start : start + _BLOCK]] += unbucket(some, raw) * self._stride
        reader.end_bits()
        if quantizer is not None:
            magnitudes = to_units(magnitudes, quantizer)
        if self.signed:
            magnitudes *= 1 - 2 * negative.astype(np.int32)
        return replace(signal, positions=positions, codes=magnitudes, data=reader.rest())

    @property
    def _stride(self) -> int:
        """Magnitudes of which a symbol for many stands for one: the odd or the even ones on a path."""
        return 2 if self.trellis else 1

    def _model(self) -> Model:
        return index_model() if self.trellis else magnitude_model()

    def _symbols(self, magnitudes: NDArray[np.signedinteger[Any]]) -> NDArray[np.uint8]:
        symbols: NDArray[np.uint8] = np.minimum(magnitudes, FIRST_BUCKETED).astype(np.uint8)
        # On a path, parities must be known before excesses are: 3 is many and odd, 4 many and even.
        if self.trellis:
            symbols += (magnitudes > FIRST_BUCKETED) & (magnitudes % 2 == 0)
        return symbols


def _write(
    symbols: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    *,
    model: Model,
    cargo: Cargo,
    lanes: int | None = None,
) -> bytes:
    lanes = _few_lanes(symbols.size) if lanes is None else lanes
    states, words = encode_symbols(symbols, bases, model=model, lanes=lanes, stowed=cargo.take(lanes))
    return write_section(states, words)


def _read(
    reader: Reader, bases: NDArray[np.uint8], *, model: Model, lanes: int | None = None
) -> NDArray[np.uint8]:
    lanes = _few_lanes(bases.size) if lanes is None else grid_shape(bases.size, lanes)[1]
    symbols, stowed = decode_symbols(*reader.section(lanes=lanes), bases, model=model)
    reader.stow(stowed)
    return symbols


def _choose_lanes(count: int, *, cargo: Cargo) -> int:
    """Choose how many lanes code the magnitudes.

    A lane wastes half a byte, and two more if it has no cargo. Few symbols are coded one by one in plain
    Python; with many, the more lanes there are, the fewer steps of numpy calls.
    """
    fewest, most = -(-count // _LONG_STEPS), -(-count // _MIN_STEPS)
    lanes = min(max(cargo.lanes // _CARGO_FOR_EACH, fewest), most)
    alone = count <= _ONE_BY_ONE or (lanes < _FASTER and count <= MAX_STEPS_ALONE)
    return 1 if alone else lanes


def path_lanes(count: int) -> int:
    """Return how many lanes, each with a path of its own, code so many entries."""
    return _few_lanes(count)


def _few_lanes(count: int) -> int:
    lanes = 1 if count <= _ONE_BY_ONE else -(-count // _SYMBOLS_PER_LANE)
    return grid_shape(count, lanes)[1]


def _sign_lanes(count: int) -> int:
    return 1 if count <= _ONE_BY_ONE else -(-count // _SIGNS_PER_LANE)


def _write_signs(signal: Signal, levels: list[Levels]) -> bytes:
    """Write patterns and signs; the first of these ride raw in the lanes, which would carry nothing else."""
    patterns = fit_patterns(signal.positions, signal.codes, mask=signal.mask)
    expected = patterns.at(signal.positions, mask=signal.mask)
    negative = (signal.codes < 0) ^ expected
    wish = _sign_lanes(negative.size)
    cargo = Cargo(np.packbits(negative[: 16 * wish], bitorder="little").tobytes())
    symbols, bases = negative[16 * wish :].astype(np.uint8), relations(expected)[16 * wish :]
    lanes = grid_shape(symbols.size, wish)[1]
    section = _write(symbols, bases, model=sign_model(), cargo=cargo, lanes=lanes)
    return patterns.write(levels, mask=signal.mask) + section + cargo.rest()


def _read_signs(
    reader: Reader, positions: NDArray[np.int64], levels: list[Levels], *, mask: Mask
) -> NDArray[np.bool_]:
    expected = Patterns.read(reader, levels, mask=mask).at(positions, mask=mask)
    wish = _sign_lanes(positions.size)
    bases = relations(expected)[16 * wish :]
    lanes = grid_shape(bases.size, wish)[1]
    symbols, stowed = decode_symbols(*reader.section(lanes=lanes), bases, model=sign_model())
    raw = np.frombuffer(stowed.astype("<u2").tobytes() + reader.take(2 * (wish - lanes)), np.uint8)
    return np.concatenate([np.unpackbits(raw, bitorder="little"), symbols]).astype(np.bool_) ^ expected


def _modes(levels: list[Levels], *, mask: Mask) -> bytes:
    bits = []
    for part, tensor in zip(levels, mask.layout.tensors, strict=True):
        rows, columns, _ = geometry(tensor)
        bits += [part.rows.size == rows, part.columns.size == columns]
    return np.packbits(np.array(bits, np.bool_), bitorder="little").tobytes()


def _write_levels(levels: list[Levels], *, cargo: Cargo) -> bytes:
    symbols, bases = [], []
    for part in levels:
        columns = part.columns if part.columns.size > 1 else part.columns[:0]
        symbols += [part.rows, columns]
        bases += [np.zeros(part.rows.size, np.uint8), np.ones(columns.size, np.uint8)]
    joined = np.concatenate(symbols)
    if joined.size < _FEW_LEVELS:
        pairs = np.append(joined, np.zeros(joined.size % 2, np.uint8)).reshape(-1, 2)
        return bytes((pairs[:, 0] + 16 * pairs[:, 1]).tolist())
    return _write(joined, np.concatenate(bases), model=level_model(), cargo=cargo)


def _read_levels(reader: Reader, *, mask: Mask) -> list[Levels]:
    tensors = mask.layout.tensors
    packed = np.frombuffer(reader.take((2 * len(tensors) + 7) // 8), np.uint8)
    modes = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    if not tensors or np.any(modes[2 * len(tensors) :]):
        raise PayloadError("modes do not fit the tensors")
    sizes = []
    for tensor, by_row, by_column in zip(tensors, modes[::2], modes[1::2], strict=False):
        rows, columns, _ = geometry(tensor)
        if (rows == 1 and not by_row) or (columns == 1 and not by_column):
            raise PayloadError(f"modes of {tensor.name} do not fit its shape")
        sizes += [rows if by_row else 1, columns if by_column and columns > 1 else 0]
    bases = np.repeat(np.tile(np.arange(2, dtype=np.uint8), len(tensors)), sizes)
    if bases.size < _FEW_LEVELS:
        pairs = np.frombuffer(reader.take((bases.size + 1) // 2), np.uint8)
        nibbles = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
        if np.any(nibbles[bases.size :]):
            raise PayloadError("levels beyond the last one are set")
        symbols = nibbles[: bases.size]
    else:
        symbols = _read(reader, bases, model=level_model())
    sides = np.split(symbols, np.cumsum(sizes)[:-1])
    even = np.full(1, EVEN, np.uint8)
    return [
        Levels(rows=rows.astype(np.uint8), columns=columns.astype(np.uint8) if columns.size else even)
        for rows, columns in zip(sides[::2], sides[1::2], strict=True)
    ]
