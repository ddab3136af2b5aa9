"""One model in all the forms that are compared, and what each takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benchmarks.export.training import half_of
from numpy.typing import NDArray

from hedgerow_export import (
    Runner,
    channel_groups,
    fill_template,
    make_sparse,
    quantize_int8,
    shrink_model,
    template_layout,
    template_parameters,
    zip_bytes,
)

SPARSITY = 0.8
_WARM_UP, _BURST, _SECONDS = 5, 10, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A form of a model, and the float model that it must agree with (None: it is one)."""

    name: str
    model: bytes = field(repr=False)
    own_float: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one form takes; bytes, milliseconds of one thread, agreement with its own float version."""

    name: str
    file_bytes: int
    zip_bytes: int
    wall_ms: float
    cpu_ms: float
    max_abs_error: float | None
    top1_agreement: float | None
    accuracy: float | None = None


def variants(
    dense: bytes, calibration: NDArray[np.float32], *, half: bytes | None = None
) -> tuple[list[Variant], float]:
    """Return all forms, and the largest difference between the shrunk graph and the masked one.

    Parameters
    ----------
    dense : bytes
        A filled template.
    calibration : ndarray, shape (n, ...)
    half : bytes, optional
        `dense` with half of its channels removed and trained on; by default it is only removed here.
    """
    layout, flat = template_layout(dense), template_parameters(dense)
    pruned = fill_template(dense, _prune(flat, layout.split), layout=layout)
    masks = half_of(dense)
    shrunk = shrink_model(dense, masks)
    live = channel_groups(dense).live(layout, masks)
    masked = fill_template(dense, flat * live, layout=layout)
    error = float(np.abs(Runner(shrunk)(calibration[:16]) - Runner(masked)(calibration[:16])).max())
    small = half or shrunk
    return [
        Variant(name="dense float32", model=dense),
        Variant(name="unstructured 80 %", model=pruned),
        Variant(
            name="unstructured 80 %, sparse initialisers", model=make_sparse(pruned)[0], own_float=pruned
        ),
        Variant(name="half the channels", model=small, own_float=None if half else masked),
        Variant(name="int8", model=quantize_int8(dense, calibration).model, own_float=dense),
        Variant(
            name="half the channels, int8", model=quantize_int8(small, calibration).model, own_float=small
        ),
    ], error


def measure(forms: list[Variant], inputs: NDArray[np.float32]) -> list[Row]:
    """Time all forms in turns, and compare each with its own float version.

    The processor time of the calling thread, which does all the work, is measured beside the time on the
    wall: what else the machine does makes it wait, but does not count as its own.
    """
    times = _times([form.model for form in forms], inputs[:1])
    outputs = {id(form.model): Runner(form.model)(inputs) for form in forms}
    rows = []
    for form, (wall, cpu) in zip(forms, times, strict=True):
        own = outputs[id(form.model)]
        wanted = None
        if form.own_float is not None:
            wanted = outputs.get(id(form.own_float))
            wanted = Runner(form.own_float)(inputs) if wanted is None else wanted
        same = None if wanted is None else float(np.mean(own.argmax(axis=1) == wanted.argmax(axis=1)))
        rows.append(
            Row(
                name=form.name,
                file_bytes=len(form.model),
                zip_bytes=zip_bytes(form.model),
                wall_ms=wall,
                cpu_ms=cpu,
                max_abs_error=None if wanted is None else float(np.abs(own - wanted).max()),
                top1_agreement=same,
            )
        )
    return rows


def _times(models: list[bytes], row: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return the median milliseconds of wall and processor time of each model.

    A turn is ten calls after one that is not counted: a model that runs alone on a device finds its weights
    in the processor's cache, not those of the model before it.
    """
    runners = [Runner(model, threads=1) for model in models]
    for runner in runners:
        for _ in range(_WARM_UP):
            runner(row)
    taken: list[list[tuple[float, float]]] = [[] for _ in runners]
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS * len(runners) or len(taken[0]) < 20:
        for runner, entries in zip(runners, taken, strict=True):
            runner(row)
            for _ in range(_BURST):
                wall, cpu = time.perf_counter(), time.thread_time()
                runner(row)
                cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
                entries.append((1e3 * wall, 1e3 * cpu))
        if len(taken[0]) >= 300:
            break
    return [
        (float(np.median([wall for wall, _ in entries])), float(np.median([cpu for _, cpu in entries])))
        for entries in taken
    ]


def _prune(flat: NDArray[np.float32], split: Any) -> NDArray[np.float32]:
    """Return weights of which the smallest 80 % of each matrix and kernel are zero."""
    pruned = flat.copy()
    parts: Mapping[str, NDArray[np.float32]] = split(pruned)
    for part in parts.values():
        if part.ndim > 1:
            bound = np.quantile(np.abs(part), SPARSITY)
            part[np.abs(part) <= bound] = 0
    return pruned
