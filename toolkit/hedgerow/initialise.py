"""From a task file to a plan, a template and test data."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hedgerow.errors import UsageError
from hedgerow.pretrained import match_weights, pretrained, read_weights
from hedgerow_codecs import Frozen, Layout, LayoutError, seeded_parameters
from hedgerow_coordinator import DensityError, PruningPolicy, parse_plan, plan_template
from hedgerow_coordinator.pruning import RECIPES, with_settings
from hedgerow_edge_client import TrainerProcess, scan_task
from hedgerow_export import fill_template, template_parameters
from hedgerow_transport import BROKER_PRESETS, BrokerPreset

TEMPLATE_TIMEOUT_S = 600.0
DENSITY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a model begins with that was trained elsewhere, and what stays of it.

    Parameters
    ----------
    weights
        File of first weights; None takes those of `build_model`, or draws them.
    partial
        Whether the file may lack tensors of the model.
    freeze
        Patterns of tensors that stay as they are, beside those of the task file.
    """

    weights: Path | None = None
    partial: bool = False
    freeze: tuple[str, ...] = ()


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
    transfer: Transfer | None = None,
) -> list[tuple[Path, str]]:
    """Write template.onnx, plan.toml and, where the task has test data, evaluate.npz.

    Returns
    -------
    list of (Path, str)
        What was written, and what it is.

    Raises
    ------
    hedgerow.errors.UsageError
        When a file is there already and `force` is not set, there is no such recipe, or the weights do not
        fit.
    hedgerow_edge_client.errors.EdgeClientError
        When the task cannot be used.
    hedgerow_export.ExportError
        When its model cannot be exported.
    """
    scan_task(task)
    begin = transfer or Transfer()
    if begin.partial and begin.weights is None:
        raise UsageError("--partial is about --weights: name the file")
    arrays = None if begin.weights is None else read_weights(begin.weights)
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
    freeze = tuple(dict.fromkeys((*description.freeze, *begin.freeze)))
    frozen = _frozen(layout, freeze)
    init = "seeded" if _can_be_seeded(layout) else "template"
    meaning = f"the model, {_sizes(layout, frozen)}"
    if arrays is not None and begin.weights is not None:
        match = match_weights(arrays, layout)
        first = template_parameters(template)
        flat = pretrained(match, first, layout=layout, partial=begin.partial, path=begin.weights)
        template, init = fill_template(template, flat, layout=layout), "pretrained"
        meaning = "\n  ".join((meaning, *match.sentences(layout)))
    plan = plan_template(
        name=name,
        rounds=rounds,
        min_clients=min_clients,
        has_test_data=test_data is not None,
        metric=description.metric,
        init=init,
        freeze=freeze,
        density=_density(layout, frozen),
        chunk_bytes=preset.chunk_bytes,
        chunk_reason=preset.reason,
    )
    plan = _with_recipe(plan, recipe, rounds=rounds)
    parse_plan(plan.encode(), source="plan.toml").policy(layout)
    written = [
        (_write(output / "template.onnx", template), meaning),
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


def _frozen(layout: Layout, patterns: tuple[str, ...]) -> Frozen:
    try:
        return Frozen.matching(layout, patterns)
    except LayoutError as error:
        raise UsageError(f"what is to be frozen cannot be: {error}") from error


def _sizes(layout: Layout, frozen: Frozen) -> str:
    tensors = [spec for spec in layout.tensors if spec.prunable and spec.name not in frozen.names]
    text = f"{layout.num_parameters:,} parameters, {sum(spec.size for spec in tensors):,} of them prunable"
    if frozen:
        text += f", {frozen.num_parameters:,} frozen ({len(frozen.names)} of {len(layout.tensors)} tensors)"
    return text


def _can_be_seeded(layout: Layout) -> bool:
    try:
        seeded_parameters(layout, seed=0)
    except LayoutError:
        return False
    return True


def _density(layout: Layout, frozen: Frozen) -> float:
    """Return the usual density, or, for a model too small for it, one between the least possible and 1."""
    try:
        PruningPolicy(density=DENSITY).protecting(frozen.names).check(layout)
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
