"""Whether a smaller model still says what the larger one says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.metrics import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a quantised model may lose.

    Attributes
    ----------
    drop_points : float
        With targets: points of accuracy (a share of the metric's value in percent for other metrics); one
        sample may always be lost.
    top1_agreement : float
        Without targets, for classes: share of inputs with the same answer.
    relative_error : float
        For other outputs without targets: root mean square of the difference, relative to the outputs'.
    """

    drop_points: float = 0.5
    top1_agreement: float = 0.98
    relative_error: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two models' outputs compare.

    Attributes
    ----------
    ok : bool
        Within the limits, and all numbers finite.
    said : str
        What was compared, for a person.
    max_abs_error : float
        NaN when an output is not a finite number.
    top1_agreement : float or None
        For outputs of shape (n, 2 or more).
    before, after : float or None
        The metric of both, where there are targets.
    """

    ok: bool
    said: str
    max_abs_error: float
    top1_agreement: float | None
    before: float | None
    after: float | None


def compare_outputs(
    outputs: NDArray[Any],
    wanted: NDArray[Any],
    *,
    targets: NDArray[Any] | None = None,
    metric: Metric | None = None,
    limits: Limits | None = None,
) -> Agreement:
    """Compare the outputs of a smaller model with those of its float version.

    Parameters
    ----------
    outputs, wanted : ndarray, shape (n, ...)
    targets : ndarray, shape (n, ...), optional
        With a `metric`.
    metric : Metric, optional
    limits : Limits, optional

    Raises
    ------
    MetricError
        Targets and outputs do not fit.
    """
    allowed = limits or Limits()
    finite = outputs.shape == wanted.shape and bool(np.isfinite(outputs).all() and np.isfinite(wanted).all())
    error = math.nan
    if finite:
        error = float(np.abs(outputs.astype(np.float64) - wanted).max(initial=0.0))
    classes = finite and outputs.ndim == 2 and outputs.shape[1] > 1
    top1 = float(np.mean(outputs.argmax(axis=1) == wanted.argmax(axis=1))) if classes else None
    before = after = None
    if targets is not None and metric is not None:
        before, after = (float(metric.score(values, targets).mean()) for values in (wanted, outputs))
    if not finite:
        ok, said = False, "an output is not a finite number"
    elif metric is not None and before is not None and after is not None:
        ok = is_as_good(
            metric, before=before, after=after, samples=len(wanted), drop_points=allowed.drop_points
        )
        said = f"{metric.name} {before:.4f} before and {after:.4f} after"
    elif top1 is not None:
        ok, said = top1 >= allowed.top1_agreement, f"the same answer for {top1:.2%} of {len(wanted)} inputs"
    else:
        size = float(np.sqrt(np.mean(wanted.astype(np.float64) ** 2)))
        apart = float(np.sqrt(np.mean((outputs.astype(np.float64) - wanted) ** 2)))
        ok, said = (
            apart <= allowed.relative_error * size,
            f"outputs are off by {apart:.3g} of {size:.3g} (RMS)",
        )
    return Agreement(ok=ok, said=said, max_abs_error=error, top1_agreement=top1, before=before, after=after)


def is_as_good(metric: Metric, *, before: float, after: float, samples: int, drop_points: float) -> bool:
    """Say whether a model is at most `drop_points` worse than another one on the same samples.

    Points of accuracy, and one sample may always be lost; of other metrics a share of the value in percent.
    What is not a number is never as good.
    """
    if metric.name == "accuracy":
        bound = before - max(drop_points / 100, 1 / samples) - 1e-12
    else:
        sign = -1 if metric.higher_is_better else 1
        bound = before * (1 + sign * drop_points / 100)
    return after >= bound if metric.higher_is_better else after <= bound
