"""Trying a delivered model on this device's data, in a child process that may crash without harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
from numpy.typing import NDArray

from hedgerow_edge_client.delivery import Trial, TrialResult
from hedgerow_export import ExportError, MissingPackageError, Sandbox, SandboxError
from hedgerow_transport import MAX_RANGES_BYTES

TRIAL_SECONDS = 300.0
# Of the local samples so many are tried, evenly spread, and so many bytes of them at most.
TRIAL_ROWS = 512
TRIAL_BYTES = 32 << 20
_MEMORY_SHARE = 0.75
_MAX_MIB = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalRows:
    """Some of this device's samples.

    Attributes
    ----------
    inputs, targets : ndarray, shape (n, ...)
    metric : str
        Of the task.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    metric: str


def trial_sandbox() -> Sandbox:
    """Return a sandbox with most of the memory that is free."""
    mib = int(_MEMORY_SHARE * psutil.virtual_memory().available) >> 20
    return Sandbox(seconds=TRIAL_SECONDS, mib=min(mib, _MAX_MIB))


def try_model(trial: Trial, rows: LocalRows, *, sandbox: Sandbox) -> TrialResult:
    """Measure a delivered model, and the one in use, on the same samples.

    Parameters
    ----------
    trial : Trial
    rows : LocalRows
    sandbox : Sandbox

    Returns
    -------
    TrialResult
        Also for a model that crashes, hangs or does not fit the data: then with a refusal.
    """
    arrays = {"inputs": rows.inputs, "targets": rows.targets}
    models = {"model": trial.model}
    try:
        if trial.delivery.purpose == "calibrate":
            # What leaves the device: how many activations lie in which bin.
            inputs = {"inputs": rows.inputs}
            counted = sandbox.run("count", models, arrays=inputs, most_bytes=MAX_RANGES_BYTES)
            coded = counted.arrays["ranges"].tobytes()
            return TrialResult(samples=int(counted.words["rows"]), ranges=coded)
        found = sandbox.run("judge", models, arrays=arrays, metric=rows.metric, timed=True)
    except MissingPackageError as error:
        return TrialResult(refusal=str(error), passing=True)
    except ExportError as error:
        return TrialResult(refusal=str(error))
    words = found.words
    before = None
    if trial.current == trial.model:
        before = float(words["value"])
    elif trial.current is not None:
        before = _value(trial.current, rows, sandbox=sandbox)
    return TrialResult(
        metric=rows.metric,
        before=before,
        after=float(words["value"]),
        samples=int(words["samples"]),
        p50_ms=float(words["p50_ms"]),
    )


def _value(model: bytes, rows: LocalRows, *, sandbox: Sandbox) -> float | None:
    """Return the metric of the model in use; None where it does not run any more, say for other data."""
    arrays = {"inputs": rows.inputs, "targets": rows.targets}
    try:
        found = sandbox.run("judge", {"model": model}, arrays=arrays, metric=rows.metric, timed=False)
    except SandboxError:
        raise
    except ExportError:
        return None
    return float(found.words["value"])
