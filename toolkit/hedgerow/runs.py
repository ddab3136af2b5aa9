"""Reading what a plan and a run directory point to."""

from __future__ import annotations

from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow_codecs import Layout
from hedgerow_coordinator import Plan, PlanError, RunStore
from hedgerow_export import ModelError, TemplateError, check_foreign, read_model, template_layout
from hedgerow_export.model_proto import check_bytes


def read_template(plan: Plan) -> tuple[bytes, Layout]:
    """Return the ONNX template of a plan, and the layout in it.

    Raises
    ------
    hedgerow.errors.UsageError
        When it is missing.
    hedgerow_coordinator.errors.CoordinatorError
        When it is no template, or its model cannot have the plan's density.
    """
    path = plan.template_path
    if not path.is_file():
        raise UsageError(f"the template {path} is missing: `hedgerow init TASK` writes it")
    try:
        template = read_model(path)
        if not check_bytes(template):
            check_foreign(template)  # not sealed: not, or not only, of `hedgerow init`
        layout = template_layout(template)
    except (ModelError, TemplateError) as error:
        raise PlanError(f"{path} cannot be used: {error}", table="model", key="template") from error
    plan.policy(layout)
    return template, layout


def open_finished_rounds(directory: Path) -> RunStore:
    """Open a run for reading, also while its coordinator works on it.

    Raises
    ------
    hedgerow_coordinator.errors.StoreError
        When there is no run, or it is damaged.
    """
    return RunStore.open(directory, read_only=True)
