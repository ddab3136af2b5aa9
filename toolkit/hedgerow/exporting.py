"""From a run directory to a checked ONNX file."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.runs import open_finished_rounds
from hedgerow_codecs import width_tier
from hedgerow_coordinator import (
    CHECK_DATA,
    RunStore,
    ServerState,
    mask_epoch,
    network_of,
    read_arrays,
    read_test_data,
)

if TYPE_CHECKING:
    from hedgerow_export import ActivationRanges, Product, Recipe, Sample

# What the last export of a run has measured, for the run's report.
EXPORT_FACTS = "export.json"
_MAX_FACTS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export and how.

    Attributes
    ----------
    round : int or None
        A round whose state the run still keeps; None is the newest.
    recipe : hedgerow_export.Recipe or None
        None is float, with empty channels taken out, and nothing timed.
    calibration : Path or None
        ``.npz`` with `inputs` that the ranges of int8 are taken from; None takes the checking inputs.
    ranges : tuple of Path
        Files of histograms that devices have counted, in place of `calibration`.
    facts : dict[str, str]
        Entries for the model: labels, input, licence.
    width : float
        Of a run with tiers by width: the model of a device with this share of the channels, in (0, 1].
    """

    round: int | None = None
    recipe: Recipe | None = None
    calibration: Path | None = None
    ranges: tuple[Path, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    width: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What an export wrote, and how it was checked; sizes in bytes.

    `max_abs_error` and `top1_agreement` are those of the pruned model before it was made smaller, against its
    reference; `product` compares the smaller one with it.
    """

    round: int
    density: float
    onnx_bytes: int
    zip_bytes: int
    max_abs_error: float
    top1_agreement: float | None
    num_samples: int
    reference: str
    metric: str
    product: Product = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the model's bytes, as JSON values."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "product"}
        told = {
            "dense": asdict(self.product.dense),
            "exported": asdict(self.product.made),
            "agreement": asdict(self.product.agreement),
            "quantized_layers": self.product.quantized_layers,
            "float_layers": list(self.product.spared),
            "sparse_tensors": self.product.sparse_tensors,
        }
        return own | told


def export_run(
    run: Path,
    *,
    output: Path,
    data: Path | None = None,
    reference: NDArray[np.generic] | None = None,
    request: ExportRequest | None = None,
) -> ExportFacts:
    """Write a committed version of a run as ONNX.

    Parameters
    ----------
    run
        Run directory.
    output
        The file; replaced only by a model that agrees with the reference.
    data
        ``.npz`` with `inputs` (and `targets`); None takes the plan's test data that the run keeps, where it
        does.
    reference
        What the model should answer for these inputs, such as torch's outputs; None computes it by
        ``onnx.reference``.
    request
        What to make; None is the newest round in float.

    Raises
    ------
    hedgerow_export.ExportError
        When the model does not agree, or cannot be written.
    hedgerow.errors.UsageError
        When the run has no committed round, or the data no inputs.
    """
    from hedgerow.export_table import export_table
    from hedgerow_export import Recipe, fill_checked, make_product, merge_ranges, write_atomically

    wanted = request or ExportRequest()
    with open_finished_rounds(run) as store:
        round_number, state = _version(store, wanted.round)
        state = network_of(state, store.plan)
        sample = _sample(store, data, wanted.calibration)
        template, metric = store.template_bytes(), store.plan.evaluate.metric
        metadata = _metadata(store, round_number) | _epoch(state) | wanted.facts
        if wanted.width < 1:
            state = _narrowed(state, store, width=wanted.width)
            metadata["width"] = f"{wanted.width:g}"
    dense, verification = fill_checked(
        template,
        state.weights,
        state.mask,
        metadata=metadata,
        inputs=None if sample is None else sample.inputs,
        reference=reference,
    )
    sample = sample or _made_up(dense)
    if wanted.ranges:
        sample = replace(sample, ranges=merge_ranges([read_ranges(path) for path in wanted.ranges]))
    product = make_product(dense, sample, wanted.recipe or Recipe())
    write_atomically(output, product.model)
    facts = ExportFacts(
        round=round_number,
        density=state.mask.density,
        onnx_bytes=product.made.file_bytes,
        zip_bytes=product.made.zip_bytes,
        max_abs_error=verification.max_abs_error,
        top1_agreement=verification.top1_agreement,
        num_samples=verification.num_samples,
        reference="the reference outputs" if verification.reference == "given" else verification.reference,
        metric=metric,
        product=product,
    )
    with contextlib.suppress(OSError):  # the report does without, where the run may only be read
        told = {**facts.to_json(), "table": export_table(facts)}
        (run / EXPORT_FACTS).write_text(json.dumps(told, indent=2) + "\n")
    return facts


def last_export(run: Path) -> str:
    """Return the table of the last export of a run; empty where there is none that can be read."""
    path = run / EXPORT_FACTS
    try:
        told = json.loads(path.read_text()) if path.stat().st_size <= _MAX_FACTS_BYTES else None
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    number, table = told.get("round"), told.get("table")
    return f"round {number}\n\n{table}" if isinstance(number, int) and isinstance(table, str) else ""


def committed(store: RunStore) -> tuple[int, ServerState]:
    """Return the newest committed round and its state.

    Raises
    ------
    hedgerow.errors.UsageError
        When no round has been committed.
    """
    latest = store.latest()
    if latest is None or latest[0] == 0:
        raise UsageError(f"{store.directory} has no committed round yet")
    return latest


def read_inputs(path: Path, option: str) -> NDArray[np.generic]:
    """Return `inputs` of an ``.npz`` file that an option names.

    Raises
    ------
    hedgerow.errors.UsageError
    """
    try:
        return read_arrays(path, "inputs")[0]
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def read_ranges(path: Path) -> ActivationRanges:
    """Return what `hedgerow calibrate` or `hedgerow deliver --calibrate` has written.

    Raises
    ------
    hedgerow.errors.UsageError
        The file cannot be read, or holds something else.
    """
    from hedgerow_export import ActivationRanges, ModelError

    try:
        with path.open("rb") as file:
            return ActivationRanges.decode(file.read((1 << 16) + 1))
    except OSError as error:
        raise UsageError(f"--ranges {path} cannot be read: {error.strerror or error}") from error
    except ModelError as error:
        raise UsageError(f"--ranges {path}: {error}") from error


def _narrowed(state: ServerState, store: RunStore, *, width: float) -> ServerState:
    """Return a version with zeros where a device of this width has nothing; the export takes them out."""
    from hedgerow_coordinator.pruning import told_channels

    if store.plan.pruning.tier_by != "width":
        raise UsageError("--width is for runs whose devices have models of different widths (tier_by)")
    layout = state.mask.layout
    sets = told_channels(store.plan.pruning, template=store.template_bytes, layout=layout)
    covered = width_tier(sets, mask=state.mask, share=width).covered
    for tensor, start in zip(layout.tensors, layout.offsets, strict=False):
        # A variance of zero is no variance; its channel is zero by its scale and shift.
        covered[start : start + tensor.size] |= tensor.kind == "buffer"
    return replace(state, weights=np.where(covered, state.weights, np.float32(0)))


def _version(store: RunStore, round_number: int | None) -> tuple[int, ServerState]:
    newest = committed(store)
    if round_number is None or round_number == newest[0]:
        return newest
    state = store.state_of(round_number) if round_number > 0 else None
    if state is None:
        kept = ", ".join(str(number) for number in store.kept_rounds() if number > 0)
        raise UsageError(f"--round {round_number}: the run keeps the rounds {kept}")
    return round_number, state


def _sample(store: RunStore, data: Path | None, calibration: Path | None) -> Sample | None:
    """Return what to check with: from `data`, else what the run keeps, else None."""
    from hedgerow_export import Sample, find_metric

    ranges = None if calibration is None else read_inputs(calibration, "--calibration")
    metric = find_metric(store.plan.evaluate.metric)
    if data is not None:
        inputs = read_inputs(data, "--data")
        try:
            targets = read_arrays(data, "targets")[0]
        except ValueError:  # inputs alone will do
            return Sample(inputs=inputs, calibration=ranges)
        return Sample(inputs=inputs, targets=targets, metric=metric, calibration=ranges)
    path = store.directory / CHECK_DATA
    if not path.is_file():
        return None if ranges is None else Sample(inputs=ranges)
    inputs, targets = read_test_data(path)
    return Sample(inputs=inputs, targets=targets, metric=metric, calibration=ranges)


def _made_up(model: bytes) -> Sample:
    from hedgerow_export import Runner, Sample, sample_inputs

    return Sample(inputs=sample_inputs(Runner(model), rows=16), real=False)


def _epoch(state: ServerState) -> dict[str, str]:
    epoch = mask_epoch(state)
    return {} if epoch is None else {"mask_epoch": str(epoch)}


def _metadata(store: RunStore, round_number: int) -> dict[str, str]:
    facts = {"run": store.run_id, "round": str(round_number)}
    if store.plan.aggregation.ema > 0:
        facts["weights"] = f"moving average, {store.plan.aggregation.ema:g}"
    measured = [r for r in store.rounds() if r.round == round_number and r.accuracy is not None]
    if measured:
        facts[store.plan.evaluate.metric] = f"{measured[-1].accuracy:.6g}"
    return facts
