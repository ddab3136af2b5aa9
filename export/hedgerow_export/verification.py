"""Whether a model computes what it should."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_export.errors import ModelError, VerificationError
from hedgerow_export.model_proto import parse_model
from hedgerow_export.optional import require
from hedgerow_export.runner import InputSpec, Runner

if TYPE_CHECKING:
    import onnx

# The reference evaluator is plain numpy, and slow for convolutions.
REFERENCE_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How far a model is from its reference.

    Attributes
    ----------
    max_abs_error : float
        Largest difference of any output; NaN when an output is not a finite number.
    allowed_error : float
        The tolerance times the largest reference output, or times 1 where that is smaller.
    top1_agreement : float or None
        Share of samples whose largest output is the same one, for outputs of shape (n, 2 or more).
    num_samples : int
        Samples that were compared.
    onnx_bytes : int
        Size of the model.
    reference : str
        ``given``, or ``onnx.reference``.
    """

    max_abs_error: float
    allowed_error: float
    top1_agreement: float | None
    num_samples: int
    onnx_bytes: int
    reference: str

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed."""
        return self.max_abs_error <= self.allowed_error  # False for NaN


def verify_model(
    model: bytes, inputs: ArrayLike, reference: NDArray[Any] | None = None, *, tolerance: float = 1e-4
) -> Verification:
    """Check a model's form with ``onnx.checker`` and its outputs against a reference.

    Parameters
    ----------
    model : bytes
    inputs : array_like, shape (n, ...)
    reference : ndarray, shape (n, ...), optional
        What the outputs should be, such as the torch module's. By default ``onnx.reference`` computes it,
        for the first 8 inputs: a second implementation of every operator.
    tolerance : float
        Allowed difference, > 0, relative to the largest reference output where that is above 1.

    Returns
    -------
    Verification
        Whether the model is right is its `ok`; being wrong is no exception here.

    Raises
    ------
    ModelError
        The model is malformed or cannot be run on these inputs, or `reference` has another shape than its
        outputs.
    """
    proto = parse_model(model)
    check_form(proto)
    rows = np.asarray(inputs)
    runner = Runner(model)
    if reference is None:
        rows = rows[:REFERENCE_ROWS]
        outputs = runner(rows)
        wanted = _reference_outputs(proto, rows, runner.input)
    else:
        outputs, wanted = runner(rows), np.asarray(reference)
    if outputs.shape != wanted.shape:
        raise ModelError(f"The model's outputs have shape {outputs.shape}, the reference has {wanted.shape}.")
    return Verification(
        max_abs_error=_max_abs_error(outputs, wanted),
        allowed_error=tolerance * max(1.0, _largest(wanted)),
        top1_agreement=_top1_agreement(outputs, wanted),
        num_samples=len(outputs),
        onnx_bytes=len(model),
        reference="onnx.reference" if reference is None else "given",
    )


def check_form(model: onnx.ModelProto) -> None:
    """Run ``onnx.checker`` with shape inference over a model.

    Sparse initialisers are checked without shape inference, which takes no operator's sparse input.

    Raises
    ------
    ModelError
        In the checker's words.
    """
    import onnx
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=not model.graph.sparse_initializer)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"The model breaks the rules of ONNX {onnx.__version__}: {line[:300]}") from error


def sample_inputs(runner: Runner, *, rows: int = 4, seed: int = 0) -> NDArray[Any]:
    """Return inputs that fit a model, for want of real ones: standard normal numbers, or zeros for integers.

    Zero is the only integer that is an index into every table.

    Raises
    ------
    VerificationError
        A dimension beside the batch has no fixed size.
    """
    spec = runner.input
    inner = [size for size in spec.shape[1:] if size is not None]
    if len(inner) != len(spec.shape) - 1:
        raise VerificationError(
            f"The model takes inputs of shape {spec.describe()}, so none can be made up; give some."
        )
    shape = (rows, *inner)
    if not np.issubdtype(spec.dtype, np.floating):
        return np.zeros(shape, spec.dtype)
    return np.random.default_rng(seed).standard_normal(shape).astype(spec.dtype)


def _reference_outputs(proto: onnx.ModelProto, rows: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    require("onnx")
    from onnx.reference import ReferenceEvaluator

    batch = np.ascontiguousarray(rows, spec.dtype)
    try:
        evaluator = ReferenceEvaluator(proto)
        outputs: Any = evaluator.run(None, {spec.name: batch})
    # The evaluator has no error of its own: these are what its operators raise.
    except (RuntimeError, NotImplementedError, TypeError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"onnx.reference cannot run the model ({type(error).__name__}); give reference outputs instead."
        ) from error
    return np.asarray(outputs[0])


def _max_abs_error(outputs: NDArray[Any], wanted: NDArray[Any]) -> float:
    if not (np.isfinite(outputs).all() and np.isfinite(wanted).all()):
        return math.nan
    return float(np.max(np.abs(outputs.astype(np.float64) - wanted.astype(np.float64)), initial=0.0))


def _largest(wanted: NDArray[Any]) -> float:
    largest = float(np.max(np.abs(wanted), initial=0.0))
    return largest if math.isfinite(largest) else 0.0


def _top1_agreement(outputs: NDArray[Any], wanted: NDArray[Any]) -> float | None:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return float(np.mean(outputs.argmax(axis=1) == wanted.argmax(axis=1)))
