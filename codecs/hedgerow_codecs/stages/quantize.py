"""Quantisation: floats to integers on grid steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.grid import MAX_CODE, MAX_MAGNITUDE, NUM_STEPS, grid_index, grid_steps
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.adaptive import count_small
from hedgerow_codecs.stages.energy import NUM_CLASSES, classes_at, fit_all_levels
from hedgerow_codecs.stages.signal import Signal

_NO_STEP = 0xFFFF
_PER_TENSOR = b"\xff\xff"
_BLOCK = 1 << 18
_MAX_CODE_BITS = 14.0
_SAMPLE_BITS = 17
_LARGE = 64
_SURELY, _TINY = 1 - 2.0**-20, 2.0**-120


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformQuantizer:
    """Rounds each tensor to ``2**bits - 1`` levels around zero, spaced by a step of its own.

    The step is the first grid step that reaches the tensor's largest magnitude. With one bit, the levels are
    plus and minus the mean magnitude of the tensor's chosen entries (and zero for what is exactly zero).
    """

    bits: int

    def encode(self, signal: Signal) -> Signal:
        ends = _tensor_ends(signal)
        indices = np.full(len(ends), _NO_STEP, np.uint16)
        codes = np.zeros(signal.values.size, np.int32)
        start = 0
        for tensor, end in enumerate(ends.tolist()):
            part = signal.values[start:end]
            largest = float(np.max(np.abs(part), initial=0))
            if largest > 0:
                if self.bits == 1:
                    index = grid_index(float(np.mean(np.abs(part), dtype=np.float64)))
                    codes[start:end] = np.sign(part)
                else:
                    index = grid_index(largest / (2 ** (self.bits - 1) - 1), at_least=True)
                    codes[start:end] = np.rint(in_steps(part, grid_steps(np.array(index))))
                indices[tensor] = index
            start = end
        data = _PER_TENSOR + indices.astype("<u2").tobytes()
        return _sparse(signal, codes, _steps(indices), data)

    def decode(self, signal: Signal) -> Signal:
        return read_steps(signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignQuantizer:
    """Turns what is chosen into signs of one step, the mean magnitude of all."""

    def encode(self, signal: Signal) -> Signal:
        size = max(signal.values.size, 1)
        index = grid_index(float(np.sum(np.abs(signal.values), dtype=np.float64)) / size)
        codes = np.sign(signal.values).astype(np.int32)
        return _on_one_step(signal, codes, index=index)

    def decode(self, signal: Signal) -> Signal:
        return read_steps(signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonQuantizer:
    """Rounds every live entry to multiples of a step that is given, and cuts it to a range.

    Parameters
    ----------
    step : float
        Rounded to the grid.
    limit : int
        Largest magnitude of a code, from 1.
    """

    step: float
    limit: int

    def encode(self, signal: Signal) -> Signal:
        codes = np.clip(self._rounded(signal.values), -self.limit, self.limit).astype(np.int32)
        positions = np.arange(codes.size, dtype=np.int64)
        return _on_one_step(replace(signal, positions=positions), codes, index=grid_index(self.step))

    def saturated(self, values: NDArray[np.float32]) -> int:
        """Return how many values are beyond the range."""
        return int(np.count_nonzero(np.abs(self._rounded(values)) > self.limit))

    def decode(self, signal: Signal) -> Signal:
        if len(signal.data) != 2:
            raise PayloadError(f"one step for all tensors takes 2 bytes, not {len(signal.data)}")
        return read_steps(signal)

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        step = grid_steps(np.array(grid_index(self.step)))
        rounded: NDArray[np.float64] = np.rint(in_steps(values, step))
        return rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadzoneQuantizer:
    """Rounds to multiples of one step for the whole update, with a zero bin as wide as a code is dear.

    Parameters
    ----------
    step : float
        Times the root mean square of the update, running statistics left out; then rounded to the grid.
        Those change by far more than weights do: with them in it, little else would be sent.
    deadzone : float
        Half-width of the zero bin in steps, from 0.5 to 1 inclusive; a magnitude ``x`` gets the code
        ``floor(x / step + 1 - deadzone)``.
    tradeoff : float
        How many squared steps of error a bit is worth. A magnitude ``x`` becomes zero where its entry's class
        makes a code cost ``b`` bits and ``x / step < (1 + tradeoff * b) / 2``: there, leaving it out is the
        better bargain. Others are rounded down below ``(1 + tradeoff * c) / 2`` above the unit before, where
        one unit more costs ``c`` bits.
    """

    step: float
    deadzone: float
    tradeoff: float

    def encode(self, signal: Signal) -> Signal:
        values = signal.values
        mean, largest = _root_mean_square_and_largest(values, mask=signal.mask)
        wanted = max(self.step * mean, largest / (MAX_CODE // 2))
        index = grid_index(min(wanted, MAX_MAGNITUDE))
        step = float(grid_steps(np.array(index)))
        positions, codes = _round_outside(values, step=step, deadzone=self.deadzone)
        if self.tradeoff and codes.size:
            scaled = in_steps(values[positions], step)
            positions, codes = self._bargain(positions, codes, scaled, mask=signal.mask)
        return replace(
            signal,
            values=values[:0],
            positions=positions,
            codes=codes,
            steps=np.full(len(signal.mask.lengths), step),
            data=index.to_bytes(2, "little"),
        )

    def _bargain(
        self,
        positions: NDArray[np.int64],
        codes: NDArray[np.int32],
        scaled: NDArray[np.float64],
        *,
        mask: Mask,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Round once more, by what codes cost in the classes that the first rounding gave."""
        magnitudes = np.abs(codes)
        levels = fit_all_levels(positions, magnitudes, mask=mask)
        sample = classes_at(sampled(mask.num_live), levels, mask=mask)
        of_codes = classes_at(positions, levels, mask=mask)
        first_bits, more_bits = code_bits(sample, of_codes, magnitudes, num_live=mask.num_live)
        del magnitudes  # what follows takes its most memory
        borders, downs = (1 + self.tradeoff * first_bits) / 2, (1 + self.tradeoff * more_bits) / 2
        kept, chosen = [positions[:0]], [codes[:0]]
        for start in range(0, scaled.size, _BLOCK):  # in blocks: what is made on the way is 40 bytes a code
            part = slice(start, start + _BLOCK)
            some, sizes = scaled[part], np.abs(scaled[part])
            worth = np.flatnonzero(sizes >= borders.take(of_codes[part]))
            down = downs.take(of_codes[part].take(worth))
            rounded = np.maximum(np.floor(sizes.take(worth) + (1 - down)), 1)
            kept.append(positions[part].take(worth))
            chosen.append(np.copysign(rounded, some.take(worth)).astype(np.int32))
        return np.concatenate(kept), np.concatenate(chosen)

    def decode(self, signal: Signal) -> Signal:
        return read_steps(signal)


def in_steps(values: NDArray[np.float32], step: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide in float64: before numpy 2, an array of float32 and a number made float32, and other codes."""
    quotients: NDArray[np.float64] = np.divide(values, step, dtype=np.float64)
    return quotients


def _root_mean_square_and_largest(values: NDArray[np.float32], *, mask: Mask) -> tuple[float, float]:
    total, counted, largest = 0.0, 0, 0.0
    for is_buffer, start, end in _runs(mask):
        for first in range(start, end, _BLOCK):  # all of a block while it is in the processor's cache
            block = values[first : min(first + _BLOCK, end)]
            largest = max(largest, float(block.max()), -float(block.min()))
            if not is_buffer:
                total += float(np.sum(np.square(block, dtype=np.float64)))
                counted += block.size
    if total == 0:
        total, counted = float(np.sum(np.square(values, dtype=np.float64))), values.size
    return math.sqrt(total / max(counted, 1)), largest


def _runs(mask: Mask) -> list[tuple[bool, int, int]]:
    """Return the stretches of the live vector that are running statistics, and those that are not."""
    runs: list[tuple[bool, int, int]] = []
    end = 0
    for tensor, length in zip(mask.layout.tensors, mask.lengths, strict=True):
        start, end = end, end + int(length)
        is_buffer = tensor.kind == "buffer"
        if runs and runs[-1][0] == is_buffer:
            start = runs.pop()[1]
        runs.append((is_buffer, start, end))
    return runs


def _round_outside(
    values: NDArray[np.float32], *, step: float, deadzone: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the places and the codes of what is outside the zero bin."""
    # Most of an update is far inside: float32 tells, with a margin for its rounding.
    near = np.float32(deadzone * step * _SURELY) if deadzone * step > _TINY else np.float32(0)
    places, codes = [], []
    for start in range(0, values.size, _BLOCK):  # in blocks: float64 of all would be twice the update again
        part = values[start : start + _BLOCK]
        maybe = np.flatnonzero(np.abs(part) >= near)
        scaled = in_steps(part[maybe], step)
        sizes = np.abs(scaled)
        outside = sizes >= deadzone
        if not outside.all():
            maybe, scaled, sizes = maybe[outside], scaled[outside], sizes[outside]
        magnitudes = np.floor(sizes + (1 - deadzone))
        codes.append(np.copysign(np.maximum(magnitudes, 1), scaled).astype(np.int32))
        places.append(maybe + start)
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *places]), np.concatenate([empty.astype(np.int32), *codes])


def sampled(count: int) -> NDArray[np.int64]:
    """Return the places of those that `code_bits` looks at, of so many."""
    return np.arange(0, count, max(count >> _SAMPLE_BITS, 1))


def code_bits(
    some_classes: NDArray[np.uint8],
    of_codes: NDArray[np.uint8],
    magnitudes: NDArray[np.signedinteger[Any]],
    *,
    num_live: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate the bits that a code takes more than a zero, and each further unit of magnitude.

    Parameters
    ----------
    some_classes : ndarray, uint8
        Of the live entries at `sampled` places.
    of_codes : ndarray, uint8, shape (k,)
        Of those with a code.
    magnitudes : ndarray of integers, shape (k,)

    Returns
    -------
    tuple of ndarray, float64, shape (NUM_CLASSES,)
    """
    # Estimates will do: of many, some are looked at.
    apart, codes_apart = (max(number >> _SAMPLE_BITS, 1) for number in (num_live, of_codes.size))
    some, some_excess = of_codes[::codes_apart], np.minimum(magnitudes[::codes_apart], _LARGE) - 1
    num_codes = count_small(some, size=NUM_CLASSES) * codes_apart
    rooms = np.maximum(count_small(some_classes, size=NUM_CLASSES) * apart, num_codes) + 1
    share = (num_codes + 0.5) / rooms
    first: NDArray[np.float64] = np.clip(np.log2((1 - share) / share) + 1, 0, _MAX_CODE_BITS)
    excess = np.bincount(some, some_excess, minlength=NUM_CLASSES) * codes_apart
    # A geometric distribution of that mean loses so much with each unit.
    more = np.log2(1 + (num_codes + 0.5) / (excess + 0.25))
    return first, more


def _tensor_ends(signal: Signal) -> NDArray[np.int64]:
    """Return where each tensor's entries end among the chosen ones, shape (num_tensors,)."""
    return np.searchsorted(signal.positions, np.cumsum(signal.mask.lengths, dtype=np.int64)).astype(np.int64)


def _on_one_step(signal: Signal, codes: NDArray[np.int32], *, index: int) -> Signal:
    steps = np.full(len(signal.mask.lengths), float(grid_steps(np.array(index))))
    return _sparse(signal, codes, steps, index.to_bytes(2, "little"))


def _sparse(signal: Signal, codes: NDArray[np.int32], steps: NDArray[np.float64], data: bytes) -> Signal:
    """Drop zero codes: what is not sent and what is zero are one and the same from here on."""
    nonzero = np.flatnonzero(codes != 0)
    return replace(
        signal,
        values=signal.values[:0],
        positions=signal.positions[nonzero],
        codes=codes[nonzero],
        steps=steps,
        data=data,
    )


def _steps(indices: NDArray[np.uint16]) -> NDArray[np.float64]:
    return np.where(indices == _NO_STEP, 0.0, grid_steps(np.where(indices == _NO_STEP, 0, indices)))


def read_steps(signal: Signal) -> Signal:
    num_tensors = len(signal.mask.lengths)
    data = signal.data
    if len(data) == 2 and data != _PER_TENSOR:
        indices = np.full(num_tensors, int.from_bytes(data, "little"), np.uint16)
    elif data[:2] == _PER_TENSOR and len(data) == 2 + 2 * num_tensors:
        indices = np.frombuffer(data, "<u2", offset=2).astype(np.uint16)
    else:
        raise PayloadError(f"{len(data)} bytes are not the steps of {num_tensors} tensors")
    if np.any((indices >= NUM_STEPS) & (indices != _NO_STEP)):
        raise PayloadError(f"step {int(indices.max())} is not on the grid of {NUM_STEPS} steps")
    steps = _steps(indices)
    counts = np.diff(_tensor_ends(signal), prepend=0)
    if np.any((steps == 0) & (counts > 0)):
        tensor = signal.mask.layout.tensors[int(np.argmax((steps == 0) & (counts > 0)))]
        raise PayloadError(f"tensor {tensor.name!r} has codes but no step")
    largest = max(int(signal.codes.max(initial=0)), -int(signal.codes.min(initial=0)))
    if largest > MAX_CODE or largest * float(np.max(steps, initial=0)) >= 2.0**128:
        raise PayloadError(f"code {largest} is beyond what float32 holds")
    return replace(signal, steps=steps)
