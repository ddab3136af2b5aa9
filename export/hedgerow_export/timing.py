"""How long a model takes for one input, measured beside others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.runner import Runner

_WARM_UP = 5
_BURST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds for one input.

    Attributes
    ----------
    p50_ms, p95_ms : float
        Half of the calls, and 95 of 100, took no longer.
    calls : int
    threads : int
    """

    p50_ms: float
    p95_ms: float
    calls: int
    threads: int


def measure_latency(
    models: Sequence[bytes], row: NDArray[Any], *, threads: int = 1, seconds: float = 1.0, calls: int = 200
) -> list[Latency]:
    """Time models in turns, so that what else the machine does falls on all of them.

    A turn is five calls after one that is not counted: a model that runs alone on a device finds its weights
    in the processor's cache, not those of the model before it.

    Parameters
    ----------
    models : sequence of bytes
    row : ndarray, shape (1, ...)
    threads : int
        Threads of onnxruntime, which do not spin.
    seconds : float
        For each model, about; at least ten calls are counted.
    calls : int
        For each model, at the most.

    Raises
    ------
    ModelError
        A model cannot be run on this input.
    """
    runners = [Runner(model, threads=threads) for model in models]
    for runner in runners:
        for _ in range(_WARM_UP):
            runner(row)
    times: list[list[float]] = [[] for _ in runners]
    start = time.perf_counter()
    while len(times[0]) < calls:
        for runner, taken in zip(runners, times, strict=True):
            runner(row)
            for _ in range(_BURST):
                begin = time.perf_counter()
                runner(row)
                taken.append(1e3 * (time.perf_counter() - begin))
        if len(times[0]) >= 10 and time.perf_counter() - start > seconds * len(runners):
            break
    return [
        Latency(
            p50_ms=float(np.percentile(taken, 50)),
            p95_ms=float(np.percentile(taken, 95)),
            calls=len(taken),
            threads=threads,
        )
        for taken in times
    ]
