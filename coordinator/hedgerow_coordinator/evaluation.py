"""The gateway's own measurement of the model, on the test data that the plan names."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.errors import PlanError
from hedgerow_coordinator.federation import Evaluate
from hedgerow_coordinator.plan import Plan

# Before the first round the model is tried on so many samples: what does not fit is found then, not later.
TRIAL_ROWS = 16


def evaluator(plan: Plan, *, template: bytes, layout: Layout) -> Evaluate | None:
    """Return what measures weights on the plan's test data, or None when the plan names none.

    Raises
    ------
    hedgerow_coordinator.errors.PlanError
        When the test data cannot be read, or metric, data and model do not go together.
    """
    if plan.evaluate_path is None:
        return None
    inputs, targets = read_test_data(plan.evaluate_path)
    metric = plan.evaluate.metric
    # Only a coordinator that measures needs onnx and onnxruntime.
    from hedgerow_export import MetricError, ModelError, evaluate, fill_template, find_metric

    rows = _trial_rows(targets)
    try:
        find_metric(metric)
    except MetricError as error:
        raise PlanError(str(error), table="evaluate", key="metric") from error
    try:
        evaluate(template, inputs[rows], targets[rows], metric)
    except (MetricError, ModelError) as error:
        raise _data_error(f"{plan.evaluate_path} does not fit the model: {error}") from error

    def measure(weights: NDArray[np.float32]) -> tuple[float, float | None]:
        model = fill_template(template, weights, layout=layout)
        outcome = evaluate(model, inputs, targets, metric)
        return outcome.value, outcome.loss

    return measure


def read_test_data(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Read `inputs` and `targets` from an .npz file.

    Raises
    ------
    hedgerow_coordinator.errors.PlanError
        When the file is missing, damaged, lacks one of them, or they do not match.
    """
    try:
        inputs, targets = read_arrays(path, "inputs", "targets")
    except ValueError as error:
        raise _data_error(str(error)) from error
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or len(inputs) == 0:
        raise _data_error(
            f"{path} holds inputs of shape {inputs.shape} and targets of shape {targets.shape}: "
            "both need the same number of rows, at least 1"
        )
    return inputs, targets


def read_arrays(path: Path, *names: str) -> tuple[NDArray[np.generic], ...]:
    """Read arrays from an .npz file, without unpickling anything.

    Raises
    ------
    ValueError
        When the file is missing, damaged or lacks an array; the message is a sentence that names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = sorted(name.removesuffix(".npy") for name in archive.namelist())
            for name in names:
                if name not in held:
                    raise ValueError(f"{path} holds no array `{name}`, but {', '.join(held) or 'nothing'}")
            return tuple(_member(archive, name) for name in names)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole .npz file: {error}") from error


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    with archive.open(f"{name}.npy") as file:
        try:
            array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{archive.filename}: array `{name}` cannot be read: {error}") from error
        return array


def _trial_rows(targets: NDArray[np.generic]) -> list[int]:
    """Return some rows, those of the largest and smallest target with them: the most likely not to fit."""
    first = set(range(min(TRIAL_ROWS, len(targets))))
    if targets.ndim == 1 and targets.dtype.kind in "biuf":
        first |= {int(np.argmax(targets)), int(np.argmin(targets))}
    return sorted(first)


def _data_error(sentence: str) -> PlanError:
    return PlanError(sentence, table="evaluate", key="data")
