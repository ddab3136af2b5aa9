"""A model, inputs and targets in; a metric and a loss out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import MetricError
from hedgerow_export.metrics import find_metric
from hedgerow_export.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a model is on some data.

    Attributes
    ----------
    metric : str
        Name of the metric.
    value : float
        Its mean over the samples.
    loss : float
        Mean cross entropy (of logits, natural logarithm) for ``accuracy``; the metric itself for ``mse``,
        ``mae``.
    num_samples : int
    """

    metric: str
    value: float
    loss: float
    num_samples: int


def evaluate(
    model: bytes, inputs: NDArray[Any], targets: NDArray[Any], metric: str = "accuracy", *, threads: int = 1
) -> Evaluation:
    """Run a model over a data set, at most 256 samples at a time.

    Parameters
    ----------
    model : bytes
        A filled template, or any ONNX model with one input.
    inputs : ndarray, shape (n, ...)
        May be a memory map: only the rows of one batch are held.
    targets : ndarray, shape (n,) or (n, ...)
        Classes for ``accuracy``, values for ``mse`` and ``mae``.
    metric : str
        A key of `METRICS`.
    threads : int
        Threads of onnxruntime.

    Raises
    ------
    MetricError
        The metric is unknown, or targets and outputs do not fit.
    ModelError
        The model cannot be loaded, or the inputs have the wrong shape.
    """
    chosen = find_metric(metric)
    runner = Runner(model, threads=threads)
    if len(inputs) != len(targets):
        raise MetricError(f"There are {len(inputs)} inputs and {len(targets)} targets.")
    done, value, loss = 0, 0.0, 0.0
    for outputs in runner.batches(inputs):
        wanted = np.asarray(targets[done : done + len(outputs)])
        value += float(chosen.score(outputs, wanted).sum())
        loss += float(chosen.loss(outputs, wanted).sum())
        done += len(outputs)
    return Evaluation(metric=metric, value=value / done, loss=loss / done, num_samples=done)
