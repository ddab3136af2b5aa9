"""From a task file to a plan, a template and test data."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import os
from pathlib import Path

import numpy as np

from hedgerow.errors import UsageError
from hedgerow_codecs import Layout, LayoutError, seeded_parameters
from hedgerow_coordinator import DensityError, PruningPolicy, parse_plan, plan_template
from hedgerow_coordinator.pruning import RECIPES, with_settings
from hedgerow_edge_client import TrainerProcess, scan_task
from hedgerow_transport import BROKER_PRESETS, BrokerPreset

TEMPLATE_TIMEOUT_S = 600.0
DENSITY = 0.2


def initialise(
    task: Path,
    *,
    data: Path | None,
    output: Path,
    name: str,
    min_clients: int,
    rounds: int,
    force: bool,
    preset: BrokerPreset = BROKER_PRESETS["any"],
    recipe: str | None = None,
) -> list[tuple[Path, str]]:
    """Write template.onnx, plan.toml and, where the task has test data, evaluate.npz.

    Returns
    -------
    list of (Path, str)
        What was written, and what it is.

    Raises
    ------
    hedgerow.errors.UsageError
        When a file is there already and `force` is not set, or there is no such recipe.
    hedgerow_edge_client.errors.EdgeClientError
        When the task cannot be used.
    hedgerow_export.ExportError
        When its model cannot be exported.
    """
    scan_task(task)
    # The numbers are checked before torch is loaded; what the model adds to the plan breaks no rule.
    trial = plan_template(name=name, rounds=rounds, min_clients=min_clients)
    parse_plan(_with_recipe(trial, recipe, rounds=rounds).encode(), source="")
    files = (output / "template.onnx", output / "plan.toml", output / "evaluate.npz")
    taken = [path for path in files if path.exists()]
    if taken and not force:
        raise UsageError(f"{taken[0]} is there already: --force replaces it, --output writes elsewhere")
    output.mkdir(parents=True, exist_ok=True)
    with TrainerProcess(task, data=data, client="init", threads=1) as trainer:
        description = trainer.describe(timeout_s=TEMPLATE_TIMEOUT_S)
        template = trainer.template(seed=0, timeout_s=TEMPLATE_TIMEOUT_S)
        test_data = trainer.test_data(timeout_s=TEMPLATE_TIMEOUT_S) if description.has_test_data else None
    layout = description.layout
    plan = plan_template(
        name=name,
        rounds=rounds,
        min_clients=min_clients,
        has_test_data=test_data is not None,
        metric=description.metric,
        init="seeded" if _can_be_seeded(layout) else "template",
        density=_density(layout),
        chunk_bytes=preset.chunk_bytes,
        chunk_reason=preset.reason,
    )
    plan = _with_recipe(plan, recipe, rounds=rounds)
    parse_plan(plan.encode(), source="plan.toml").pruning.check(layout)
    prunable = sum(spec.size for spec in layout.tensors if spec.prunable)
    written = [
        (
            _write(output / "template.onnx", template),
            f"the model, {layout.num_parameters:,} parameters, {prunable:,} of them prunable",
        ),
        (_write(output / "plan.toml", plan.encode()), "the plan, with every setting explained"),
    ]
    if test_data is not None:
        inputs, targets = test_data
        buffer = io.BytesIO()
        np.savez(buffer, inputs=inputs, targets=targets)
        path = _write(output / "evaluate.npz", buffer.getvalue())
        written.append((path, f"{len(inputs):,} test samples for the gateway"))
    return written


def _with_recipe(plan: str, recipe: str | None, *, rounds: int) -> str:
    """Return a plan's text with the settings of a recipe, and a first line that names it."""
    if recipe is None:
        return plan
    if recipe not in RECIPES:
        close = difflib.get_close_matches(recipe, RECIPES, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"there is no recipe '{recipe}'{hint or ':'} `hedgerow policies` lists them")
    found = RECIPES[recipe]
    return f"# {recipe}: {found.meaning} ({found.source}).\n" + with_settings(plan, found.settings(rounds))


def _can_be_seeded(layout: Layout) -> bool:
    try:
        seeded_parameters(layout, seed=0)
    except LayoutError:
        return False
    return True


def _density(layout: Layout) -> float:
    """Return the usual density, or, for a model too small for it, one between the least possible and 1."""
    try:
        PruningPolicy(density=DENSITY).check(layout)
    except DensityError as error:
        return math.ceil(10 * (1 + error.least_density)) / 20
    return DENSITY


def _write(path: Path, data: bytes) -> Path:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return path
