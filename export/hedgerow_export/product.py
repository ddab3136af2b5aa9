"""From a filled template to the model that a device runs: shrunk, quantised, stored sparsely, proven."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.agreement import Agreement, Limits, compare_outputs
from hedgerow_export.costs import count_costs
from hedgerow_export.errors import ExportError, VerificationError
from hedgerow_export.int4_weights import quantize_int4_weights
from hedgerow_export.metadata import read_metadata, write_metadata
from hedgerow_export.metrics import Metric
from hedgerow_export.model_proto import parse_model, serialize_model
from hedgerow_export.quantizing import quantize_int8
from hedgerow_export.ranges import ActivationRanges
from hedgerow_export.runner import Runner
from hedgerow_export.shrink import compact_model
from hedgerow_export.sparse_form import make_sparse
from hedgerow_export.targets import Target
from hedgerow_export.timing import Latency, measure_latency
from hedgerow_export.verification import check_form

QUANTIZE = ("none", "int8", "int4-weights")
_TOLERANCE = 1e-4
_SEARCH_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make of a model.

    Attributes
    ----------
    quantize : str
        One of `QUANTIZE`.
    sparse : bool
        Store tensors sparsely where that takes fewer bytes.
    target : Target or None
        Written into the model.
    limits : Limits
        What quantising may lose.
    threads : tuple[int, ...]
        Measure latency with so many threads; none, and nothing is timed.
    """

    quantize: str = "none"
    sparse: bool = False
    target: Target | None = None
    limits: Limits = field(default_factory=Limits)
    threads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.quantize not in QUANTIZE:
            raise ExportError(f"quantize is one of {', '.join(QUANTIZE)}, got {self.quantize!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Real inputs to check with.

    Attributes
    ----------
    inputs : ndarray, shape (n, ...)
    targets : ndarray or None
    metric : Metric or None
    calibration : ndarray or None
        Inputs that ranges are taken from; None takes `inputs`.
    ranges : ActivationRanges or None
        What devices have counted; takes the place of `calibration`.
    real : bool
        Whether the inputs are real ones; made-up ones do not do for calibration, and say nothing about an
        int8 model.
    """

    inputs: NDArray[Any] = field(repr=False)
    targets: NDArray[Any] | None = field(default=None, repr=False)
    metric: Metric | None = None
    calibration: NDArray[Any] | None = field(default=None, repr=False)
    ranges: ActivationRanges | None = field(default=None, repr=False)
    real: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """One row of the table: sizes in bytes, latency by threads."""

    file_bytes: int
    zip_bytes: int
    parameters: int
    multiply_adds: int
    metric: float | None
    latency: tuple[Latency, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A model for a device, and how it compares.

    Attributes
    ----------
    model : bytes
    dense, made : Measures
        Of the float model with all its channels, zeros in place, and of this one.
    agreement : Agreement
    quantized_layers : int
    spared : tuple[str, ...]
        Layers that stayed in float because the outputs suffered.
    sparse_tensors : int
    num_samples : int
    """

    model: bytes = field(repr=False)
    dense: Measures
    made: Measures
    agreement: Agreement
    quantized_layers: int
    spared: tuple[str, ...]
    sparse_tensors: int
    num_samples: int


def make_product(
    dense: bytes, sample: Sample, recipe: Recipe, *, metadata: Mapping[str, str] | None = None
) -> Product:
    """Make the model that a device runs.

    Parameters
    ----------
    dense : bytes
        A filled template, pruned weights at zero.
    sample : Sample
    recipe : Recipe
    metadata : Mapping[str, str], optional
        Entries to write into the model; its own entries are kept.

    Raises
    ------
    VerificationError
        The outcome does not agree with `dense`.
    QuantizationError
        There is nothing to quantise, or no choice of layers agrees.
    ModelError, MetricError
        Inputs or targets do not fit the model.
    """
    wanted = Runner(dense)(sample.inputs)
    small = compact_model(dense, inputs=sample.inputs)
    _refuse_unless_equal(small, wanted, sample, "with its empty channels taken out")
    model, layers, spared = _quantized(small, wanted, sample, recipe)
    model, sparse = make_sparse(model) if recipe.sparse else (model, 0)
    agreement = compare_outputs(
        Runner(model)(sample.inputs),
        wanted,
        targets=sample.targets,
        metric=sample.metric,
        limits=recipe.limits,
    )
    if recipe.quantize == "none":
        _refuse_unless_equal(model, wanted, sample, "stored sparsely")
    elif not agreement.ok and not (_is_blind(sample, recipe) and math.isfinite(agreement.max_abs_error)):
        raise VerificationError(
            f"With --quantize {recipe.quantize} the model does not agree with its float version: "
            f"{agreement.said}. Nothing was written."
        )
    measured = (
        {} if agreement.after is None or sample.metric is None else {sample.metric.name: agreement.after}
    )
    facts = {
        **read_metadata(parse_model(dense)),
        **(metadata or {}),
        **{f"exported_{name}": f"{value:.6g}" for name, value in measured.items()},
        "quantize": recipe.quantize,
        **({} if sample.ranges is None else {"ranges": f"of {sample.ranges.rows} inputs on devices"}),
        **({"target": recipe.target.name, "threads": str(recipe.target.threads)} if recipe.target else {}),
    }
    model = _with_metadata(model, facts)
    check_form(parse_model(model))
    row = np.asarray(sample.inputs[:1])
    timed = [measure_latency([dense, model], row, threads=threads) for threads in recipe.threads]
    return Product(
        model=model,
        dense=_measures(dense, dense, agreement.before, [pair[0] for pair in timed]),
        made=_measures(model, small, agreement.after, [pair[1] for pair in timed]),
        agreement=agreement,
        quantized_layers=layers,
        spared=spared,
        sparse_tensors=sparse,
        num_samples=len(sample.inputs),
    )


def zip_bytes(data: bytes) -> int:
    """Return the size of a file in a zip archive of its own, by DEFLATE."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", data)
    return len(packed.getvalue())


def _quantized(
    small: bytes, wanted: NDArray[Any], sample: Sample, recipe: Recipe
) -> tuple[bytes, int, tuple[str, ...]]:
    """Return the model in the recipe's form, how many layers are quantised, and which were spared."""
    if recipe.quantize == "none":
        return small, 0, ()
    if recipe.quantize == "int4-weights":
        return (*quantize_int4_weights(small), ())
    if not sample.real and sample.calibration is None and sample.ranges is None:
        raise ExportError(
            "--quantize int8 needs real inputs: give some with --calibration FILE, or --ranges FILE."
        )
    rows = sample.inputs[:_SEARCH_ROWS]
    targets = None if sample.targets is None else sample.targets[:_SEARCH_ROWS]

    def accept(candidate: bytes) -> bool:
        outputs = Runner(candidate)(rows)
        found = compare_outputs(
            outputs, wanted[: len(rows)], targets=targets, metric=sample.metric, limits=recipe.limits
        )
        if not found.ok or len(rows) == len(wanted):
            return found.ok
        return compare_outputs(
            Runner(candidate)(sample.inputs),
            wanted,
            targets=sample.targets,
            metric=sample.metric,
            limits=recipe.limits,
        ).ok

    calibration = sample.inputs if sample.calibration is None else sample.calibration
    blind = _is_blind(sample, recipe)
    made = quantize_int8(
        small,
        calibration,
        accept=None if blind else accept,
        ranges=sample.ranges,
        clipping="error" if blind else None,
    )
    return made.model, made.layers, made.spared


def _is_blind(sample: Sample, recipe: Recipe) -> bool:
    """Say whether nothing here can tell how good an int8 model is: then the devices that try it will."""
    return recipe.quantize == "int8" and not sample.real and sample.ranges is not None


def _refuse_unless_equal(model: bytes, wanted: NDArray[Any], sample: Sample, how: str) -> None:
    outputs = Runner(model)(sample.inputs)
    error = float(np.abs(outputs.astype(np.float64) - wanted).max(initial=0.0))
    allowed = _TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    if not error <= allowed:
        raise VerificationError(
            f"The model {how} is off by {error:.3g} from the whole one (allowed: {allowed:.3g}); "
            "nothing was written."
        )


def _with_metadata(model: bytes, facts: Mapping[str, str]) -> bytes:
    proto = parse_model(model)
    write_metadata(proto, facts)
    return serialize_model(proto)


def _measures(data: bytes, counted: bytes, metric: float | None, latency: list[Latency]) -> Measures:
    costs = count_costs(counted)
    return Measures(
        file_bytes=len(data),
        zip_bytes=zip_bytes(data),
        parameters=costs.parameters,
        multiply_adds=costs.multiply_adds,
        metric=metric,
        latency=tuple(latency),
    )
