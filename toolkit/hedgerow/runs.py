"""Reading what a plan and a run directory point to."""

from __future__ import annotations

from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow_coordinator import Plan, RunStore
from hedgerow_export import read_model


def read_template(plan: Plan) -> bytes:
    """Return the ONNX template of a plan.

    Raises
    ------
    hedgerow.errors.UsageError
        When it is missing.
    hedgerow_export.ModelError
        When it cannot be read.
    """
    if not plan.template_path.is_file():
        raise UsageError(f"the template {plan.template_path} is missing: `hedgerow init TASK` writes it")
    return read_model(plan.template_path)


def open_finished_rounds(directory: Path) -> RunStore:
    """Open a run for reading, also while its coordinator works on it.

    Raises
    ------
    hedgerow_coordinator.errors.StoreError
        When there is no run, or it is damaged.
    """
    return RunStore.open(directory, read_only=True)
