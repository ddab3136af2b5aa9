"""A model on the device that uses it: one object, with settings that suit a Raspberry Pi.

>>> from hedgerow_export import DeviceModel                            # doctest: +SKIP
>>> model = DeviceModel(Path("model.onnx"))                            # doctest: +SKIP
>>> model.predict(window)                  # one batch                  # doctest: +SKIP
>>> for answer in model.stream(sensor()):  # one input after the other  # doctest: +SKIP
...     print(model.label(answer.outputs), answer.ms)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_export.errors import ModelError
from hedgerow_export.model_proto import read_model
from hedgerow_export.runner import InputSpec, Runner
from hedgerow_export.timing import Latency

_KEPT_TIMES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a model says about one input, and how long it took.

    Attributes
    ----------
    outputs : ndarray
        Without the batch dimension.
    ms : float
    """

    outputs: NDArray[Any]
    ms: float


class DeviceModel:
    """A model file, loaded and checked, that answers for batches and for streams.

    Parameters
    ----------
    path : Path
        Written by ``hedgerow export``; any other ONNX model with one input works as well.
    threads : int, optional
        Of onnxruntime. By default what the model's target wants, and fewer than there are cores; they do not
        spin while they wait, and no memory arena keeps the peak of the largest batch.

    Attributes
    ----------
    input : InputSpec
    metadata : dict[str, str]
        What the model says about itself: run, round, accuracy, licence ...
    labels : tuple[str, ...]
        Names of the classes, where the model has them.
    threads : int

    Raises
    ------
    ModelError
        The file is missing, damaged or no model that can be run here.
    MissingPackageError
        onnxruntime is not installed.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        data = read_model(path)
        cores = os.cpu_count() or 1
        runner = Runner(data, threads=threads or max(1, cores - 1))
        wanted = runner.metadata.get("threads", "")
        if threads is None and wanted.isdigit() and 0 < int(wanted) < max(2, cores - 1):
            runner = Runner(data, threads=int(wanted))
        self._runner = runner
        self._times: list[float] = []
        self.threads = runner.threads
        self.input: InputSpec = runner.input
        self.metadata = runner.metadata
        self.labels = _labels(runner.metadata)

    def predict(self, inputs: ArrayLike) -> NDArray[Any]:
        """Return the outputs for a batch of any size, shape (n, ...).

        Raises
        ------
        ModelError
            The inputs have another shape or type than the model takes.
        """
        rows = np.asarray(inputs)
        begin = time.perf_counter()
        outputs = self._runner(rows)
        self._note(time.perf_counter() - begin, len(rows))
        return outputs

    def stream(self, inputs: Iterable[ArrayLike]) -> Iterator[Answer]:
        """Answer for one input after the other, as they come; each has the shape without the batch."""
        for row in inputs:
            begin = time.perf_counter()
            outputs = self._runner(np.asarray(row)[np.newaxis])[0]
            taken = time.perf_counter() - begin
            self._note(taken, 1)
            yield Answer(outputs=outputs, ms=1e3 * taken)

    def label(self, outputs: NDArray[Any]) -> str:
        """Return the name of the class with the largest output, or its number where it has no name.

        Raises
        ------
        ModelError
            The outputs of one input are no vector of classes.
        """
        if outputs.ndim != 1 or len(outputs) < 2:
            raise ModelError(f"Outputs of shape {outputs.shape} for each input are no classes.")
        place = int(outputs.argmax())
        return self.labels[place] if place < len(self.labels) else str(place)

    def timing(self) -> Latency:
        """Return how long the last calls took for each input.

        Raises
        ------
        ModelError
            There was no call yet.
        """
        if not self._times:
            raise ModelError("There is nothing to tell the time of: the model has not been run.")
        return Latency(
            p50_ms=float(np.percentile(self._times, 50)),
            p95_ms=float(np.percentile(self._times, 95)),
            calls=len(self._times),
            threads=self.threads,
        )

    def _note(self, seconds: float, rows: int) -> None:
        self._times.append(1e3 * seconds / rows)
        del self._times[:-_KEPT_TIMES]


def _labels(metadata: dict[str, str]) -> tuple[str, ...]:
    try:
        names = json.loads(metadata.get("labels", "[]"))
    except ValueError:
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()
