"""Run a model with onnxruntime, on a device that does other things too."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_export.errors import ModelError
from hedgerow_export.metadata import OWN_KEYS, PREFIX
from hedgerow_export.model_proto import check_bytes
from hedgerow_export.optional import require

MAX_BATCH = 256
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a model takes.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
    shape : tuple of (int or None)
        None is a dimension that may have any size; the first one is the batch.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def describe(self) -> str:
        """Return the shape in words: ``(any, 1, 28, 28)``."""
        return f"({', '.join('any' if size is None else str(size) for size in self.shape)})"


class Runner:
    """A model ready to run.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model with one input. Its seal is checked when it has one.
    threads : int
        Threads of onnxruntime, at least 1. They do not spin while they wait.

    Attributes
    ----------
    input : InputSpec
    metadata : dict[str, str]
        Hedgerow's entries, without prefix.
    threads : int

    Raises
    ------
    ModelError
        The bytes are no model that onnxruntime can load.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        check_bytes(model)
        self._session = load_session(model, threads=threads)
        self._errors = runtime_errors()
        self.threads = threads
        self.input = _input_spec(self._session)
        held = self._session.get_modelmeta().custom_metadata_map
        own = {key: value for key, value in held.items() if key.startswith(PREFIX) and key not in OWN_KEYS}
        self.metadata = {key.removeprefix(PREFIX): value for key, value in own.items()}

    def __call__(self, inputs: ArrayLike) -> NDArray[Any]:
        """Return the first output for a batch of any size.

        Parameters
        ----------
        inputs : array_like, shape (n, ...)
            n at least 1. More than 256 rows, or more than the model's own fixed batch, run piece by piece.

        Returns
        -------
        ndarray, shape (n, ...)

        Raises
        ------
        ModelError
            `inputs` have another shape or type than the model takes (both are named), or the model fails.
        """
        return np.concatenate(list(self.batches(inputs)))

    def batches(self, inputs: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the first output piece by piece, at most 256 rows each; arguments as for a call."""
        # A sequence of rows on disk (np.memmap) stays there until its rows are wanted.
        rows = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs)
        self._check(rows)
        fixed = self.input.shape[0]
        step = MAX_BATCH if fixed is None else fixed
        for start in range(0, len(rows), step):
            yield self._run(rows[start : start + step], fixed)

    def _run(self, rows: NDArray[Any], fixed: int | None) -> NDArray[Any]:
        count = len(rows)
        batch = np.ascontiguousarray(rows, self.input.dtype)
        if fixed is not None and count < fixed:  # the model's batch is part of its graph: fill it up
            batch = np.concatenate([batch, np.repeat(batch[-1:], fixed - count, axis=0)])
        try:
            output = np.asarray(self._session.run(None, {self.input.name: batch})[0])
        except self._errors as error:
            raise ModelError(f"The model fails on a batch of {count}: {_first_line(error)}") from error
        if output.ndim == 0 or len(output) != len(batch):
            raise ModelError(
                f"The model's first output has shape {output.shape} for a batch of {len(batch)}; "
                "its first dimension must be the batch."
            )
        return output[:count]

    def _check(self, rows: NDArray[Any]) -> None:
        expected = self.input.shape
        fits = rows.ndim == len(expected) and all(
            want is None or have == want for have, want in zip(rows.shape[1:], expected[1:], strict=True)
        )
        if not fits:
            raise ModelError(
                f"The model takes inputs of shape {self.input.describe()} and got {rows.shape}; "
                "the first dimension is the batch."
            )
        if len(rows) == 0:
            raise ModelError("The model got no inputs (a batch of 0).")
        same_kind = np.can_cast(rows.dtype, self.input.dtype, casting="same_kind")
        if not same_kind:
            raise ModelError(f"The model takes {self.input.dtype} and got {rows.dtype}.")


def load_session(model: bytes, *, threads: int = 1) -> Any:
    """Return an ``onnxruntime.InferenceSession`` with settings for a small device.

    Raises
    ------
    ModelError
        The bytes are no model that onnxruntime can load.
    """
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns a core of a small device between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the peak of the largest batch for good.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors are raised; onnxruntime would print them as well
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ModelError(f"onnxruntime cannot load the model: {_first_line(error)}") from error


def _input_spec(session: Any) -> InputSpec:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(entry.name) for entry in inputs) or "none"
        raise ModelError(f"Only models with one input can be run here; this one has {len(inputs)} ({names}).")
    entry = inputs[0]
    if entry.type not in _DTYPES:
        raise ModelError(f"The model's input {entry.name!r} is a {entry.type}, which is not supported.")
    shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
    if not shape:
        raise ModelError(
            f"The model's input {entry.name!r} is a scalar; its first dimension must be the batch."
        )
    return InputSpec(name=entry.name, dtype=np.dtype(_DTYPES[entry.type]), shape=shape)


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: a family without a common root of its own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")

    own = [
        entry for entry in vars(state).values() if isinstance(entry, type) and issubclass(entry, Exception)
    ]
    return (*own, RuntimeError, ValueError)


def _first_line(error: Exception) -> str:
    """Return the sentence out of ``[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model failed ...``."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(" : ")[-1][:300]
