"""How good outputs are, sample by sample: a metric is a value, the registry one dict."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import MetricError

PerSample = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of merit and the loss that goes with it; both are means over the samples.

    Attributes
    ----------
    name : str
    score, loss : callable
        ``(outputs (n, ...), targets (n, ...)) -> float64 (n,)``; raise `MetricError` when they do not fit.
    higher_is_better : bool
    """

    name: str
    score: PerSample
    loss: PerSample
    higher_is_better: bool


def accuracy(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the share of samples whose largest output is the target's class, 0 to 1.

    Parameters
    ----------
    outputs : ndarray, shape (n, classes), or (n, 1) or (n,) for two classes
        Logits. With a single column, above 0 means class 1.
    targets : ndarray, integer, shape (n,) or (n, 1)

    Raises
    ------
    MetricError
        The shapes do not fit each other, or a target is no class of the outputs.

    Examples
    --------
    >>> accuracy(np.array([[0.1, 0.9], [2.0, 1.0]]), np.array([1, 1]))
    0.5
    """
    return float(np.mean(_hits(np.asarray(outputs), np.asarray(targets))))


def find_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises
    ------
    MetricError
        There is none; the nearest name is suggested.
    """
    if name in METRICS:
        return METRICS[name]
    close = difflib.get_close_matches(name, METRICS, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(METRICS)}."
    raise MetricError(f"Unknown metric {name!r}; {known}")


def _classes(outputs: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (logits (n, c) with c >= 2, classes (n,)); one column becomes the two logits (0, z)."""
    logits = np.asarray(outputs, np.float64)
    if logits.ndim == 1:
        logits = logits[:, np.newaxis]
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if logits.ndim != 2 or targets.shape != (len(logits),):
        raise MetricError(
            "Accuracy needs outputs of shape (n, classes) and targets of shape (n,), "
            f"got {outputs.shape} and {targets.shape}."
        )
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    classes = targets.astype(np.int64)
    if not np.array_equal(classes, targets):
        raise MetricError("Accuracy needs whole numbers as targets; for measured values take 'mse' or 'mae'.")
    if len(classes) and not 0 <= classes.min() <= classes.max() < logits.shape[1]:
        raise MetricError(
            f"The targets go from {classes.min()} to {classes.max()}, but the model tells "
            f"{logits.shape[1]} classes apart (0 to {logits.shape[1] - 1})."
        )
    return logits, classes


def _hits(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    logits, classes = _classes(outputs, targets)
    # Outputs that are not numbers point at no class; argmax would point at them.
    finite = np.isfinite(logits).all(axis=1)
    return np.asarray((logits.argmax(axis=1) == classes) & finite, np.float64)


def _cross_entropy(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    logits, classes = _classes(outputs, targets)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(classes)), classes]
    return np.asarray(loss, np.float64)


def _errors(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Return output minus target, shape (n, values); (n, 1) and (n,) are the same thing."""
    if len(outputs) != len(targets) or outputs.size != targets.size:
        raise MetricError(f"The outputs have shape {outputs.shape} and the targets {targets.shape}.")
    if outputs.ndim > 1 and targets.ndim > 1 and outputs.shape != targets.shape:
        raise MetricError(f"The outputs have shape {outputs.shape} and the targets {targets.shape}.")
    shape = (len(outputs), -1)
    difference: NDArray[np.float64] = outputs.astype(np.float64).reshape(shape) - targets.reshape(shape)
    return difference


def _squared(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.mean(_errors(outputs, targets) ** 2, axis=1), np.float64)


def _absolute(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.abs(_errors(outputs, targets)), axis=1), np.float64)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(name="accuracy", score=_hits, loss=_cross_entropy, higher_is_better=True),
    "mse": Metric(name="mse", score=_squared, loss=_squared, higher_is_better=False),
    "mae": Metric(name="mae", score=_absolute, loss=_absolute, higher_is_better=False),
}
