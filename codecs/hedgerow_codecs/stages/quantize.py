"""Quantisation: floats to integers on grid steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.grid import MAX_CODE, MAX_MAGNITUDE, NUM_STEPS, grid_index, grid_steps
from hedgerow_codecs.stages.signal import Signal

_NO_STEP = 0xFFFF
_COMMON, _PER_TENSOR = 0, 1


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
                    codes[start:end] = np.rint(part / grid_steps(np.array(index)))
                indices[tensor] = index
            start = end
        data = bytes([_PER_TENSOR]) + indices.astype("<u2").tobytes()
        return _sparse(signal, codes, _steps(indices), data)

    def decode(self, signal: Signal) -> Signal:
        return _read_steps(signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadzoneQuantizer:
    """Rounds to multiples of one step for the whole update, with a wide zero bin.

    Parameters
    ----------
    step : float
        Times the root mean square of the update; then rounded to the grid.
    deadzone : float
        Half-width of the zero bin in steps, from 0.5 to 1 inclusive; a magnitude ``x`` gets the code
        ``floor(x / step + 1 - deadzone)``.
    """

    step: float
    deadzone: float

    def encode(self, signal: Signal) -> Signal:
        values = signal.values
        largest = float(np.max(np.abs(values), initial=0))
        mean_square = float(np.mean(np.square(values, dtype=np.float64))) if values.size else 0.0
        wanted = max(self.step * math.sqrt(mean_square), largest / (MAX_CODE // 2))
        index = grid_index(min(wanted, MAX_MAGNITUDE))
        step = float(grid_steps(np.array(index)))
        magnitudes = np.floor(np.abs(values) / np.float64(step) + (1 - self.deadzone))
        codes = np.copysign(magnitudes, values).astype(np.int32)
        data = bytes([_COMMON]) + index.to_bytes(2, "little")
        return _sparse(signal, codes, np.full(len(signal.mask.lengths), step), data)

    def decode(self, signal: Signal) -> Signal:
        return _read_steps(signal)


def _tensor_ends(signal: Signal) -> NDArray[np.int64]:
    """Return where each tensor's entries end among the chosen ones, shape (num_tensors,)."""
    return np.searchsorted(signal.positions, np.cumsum(signal.mask.lengths, dtype=np.int64)).astype(np.int64)


def _sparse(signal: Signal, codes: NDArray[np.int32], steps: NDArray[np.float64], data: bytes) -> Signal:
    """Drop zero codes: what is not sent and what is zero are one and the same from here on."""
    nonzero = np.flatnonzero(codes)
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


def _read_steps(signal: Signal) -> Signal:
    num_tensors = len(signal.mask.lengths)
    data = signal.data
    if data[:1] == bytes([_COMMON]) and len(data) == 3:
        indices = np.full(num_tensors, int.from_bytes(data[1:], "little"), np.uint16)
    elif data[:1] == bytes([_PER_TENSOR]) and len(data) == 1 + 2 * num_tensors:
        indices = np.frombuffer(data, "<u2", offset=1).astype(np.uint16)
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
