"""Float models into static int8 ones, with calibrated ranges; layers that suffer stay in float.

Weights are signed 8-bit numbers with a scale for each channel, activations unsigned ones with a scale for
each tensor, written as QuantizeLinear and DequantizeLinear around float operators (QDQ), which every ONNX
runtime reads. onnxruntime's quantiser does the work; which layers are spared is decided here, by measuring.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.calibration import fused_form, tensor_ranges
from hedgerow_export.errors import ModelError, QuantizationError
from hedgerow_export.model_proto import serialize_model
from hedgerow_export.optional import require
from hedgerow_export.ranges import CLIPPINGS, ActivationRanges
from hedgerow_export.runner import Runner
from hedgerow_export.tidying import IR_VERSION

if TYPE_CHECKING:
    import onnx

CALIBRATION_ROWS = 256
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What stands between two quantised layers, so that the values need not become float in between.
_BETWEEN = (
    "Add AveragePool Clip Concat Flatten GlobalAveragePool LeakyRelu MaxPool Mul Pad Relu Reshape Resize "
    "Split Squeeze Transpose Unsqueeze"
)
# With these in between, values become float again and again, and quantised additions only cost.
_FLOAT = frozenset(("LayerNormalization", "RMSNormalization", "Softmax", "GRU", "LSTM", "RNN"))
_MAX_TRIALS = 40
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Model:
    """A quantised model.

    Attributes
    ----------
    model : bytes
    layers : int
        Layers with weights in 8 bits.
    spared : tuple[str, ...]
        Layers that stay in float because the outputs suffered, by the names of their outputs.
    """

    model: bytes = field(repr=False)
    layers: int
    spared: tuple[str, ...]


def quantize_int8(
    model: bytes,
    calibration: NDArray[Any],
    *,
    accept: Callable[[bytes], bool] | None = None,
    error: Callable[[bytes], float] | None = None,
    ranges: ActivationRanges | None = None,
    clipping: str | None = None,
) -> Int8Model:
    """Quantise a float model.

    Parameters
    ----------
    model : bytes
        A filled template or shrunk model.
    calibration : ndarray, shape (n, ...)
        Real inputs; the ranges of activations are those of at most 256 of them.
    accept : callable, optional
        Tells whether a quantised model is good enough. While it is not, layers go back to float, worst first:
        those that alone make the largest error, measured one by one. By default the first model is accepted.
    error : callable, optional
        How far a quantised model is off, for that order; by default the root mean square of the outputs'
        difference on the calibration inputs.
    ranges : ActivationRanges, optional
        Histograms that devices have counted; they take the place of the calibration inputs' ranges.
    clipping : str, optional
        One of `CLIPPINGS`, for `ranges`; by default the one with the smaller error on the calibration inputs.

    Raises
    ------
    QuantizationError
        There is no layer to quantise, or no choice of layers is accepted.
    ModelError
        The bytes are no model, the inputs do not fit it, or the ranges are of another one.
    """
    require("onnx", "onnxruntime")
    rows = np.asarray(calibration)[:CALIBRATION_ROWS]
    fused = fused_form(model)
    names = {node.output[0]: node.name for node in fused.graph.node}
    layers = quantizable(fused)
    if not layers:
        raise QuantizationError("The model has no convolution or linear layer that could be quantised.")
    runner = Runner(model)
    if ranges is None:
        found = _calibrate(fused, [runner.input.name], runner, rows)
    else:
        told = [_told(tensor_ranges(fused, ranges, clipping=name)) for name in _clippings(clipping)]
        compare = _distance(runner, rows)
        found = min(told, key=lambda one: compare(_quantize(fused, one, ())) if len(told) > 1 else 0.0)

    def build(excluded: Sequence[str]) -> bytes:
        return _quantize(fused, found, [names[name] for name in excluded])

    whole = build(())
    if accept is None or accept(whole):
        return Int8Model(model=whole, layers=len(layers), spared=())
    measure = error or _distance(runner, rows[:_BATCH])
    order = _by_sensitivity(layers, build, measure)
    count = 1
    while count < len(layers):
        spared = order[:count]
        candidate = build(spared)
        if accept(candidate):
            return Int8Model(model=candidate, layers=len(layers) - count, spared=tuple(spared))
        count += max(1, count // 2)
    raise QuantizationError(
        "Quantised to 8 bits the model does not agree with its float version, whichever layers stay in "
        "float; export it with --quantize none, or give better --calibration inputs."
    )


def _clippings(wanted: str | None) -> tuple[str, ...]:
    return CLIPPINGS if wanted is None else (wanted,)


def _by_sensitivity(
    layers: Sequence[str], build: Callable[[Sequence[str]], bytes], measure: Callable[[bytes], float]
) -> list[str]:
    """Return layers by the error that is left when they alone stay in float, the most helpful first."""
    tried = list(layers)[:_MAX_TRIALS]
    gains = {name: measure(build((name,))) for name in tried}
    return [*sorted(tried, key=lambda name: gains[name]), *layers[_MAX_TRIALS:]]


def _distance(runner: Runner, rows: NDArray[Any]) -> Callable[[bytes], float]:
    wanted = runner(rows).astype(np.float64)

    def measure(model: bytes) -> float:
        return float(np.sqrt(np.mean((Runner(model)(rows) - wanted) ** 2)))

    return measure


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Return the layers with constant weights, by their outputs."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type in _LAYERS and len(node.input) > 1 and node.input[1] in held
    ]


def layers_and_between(model: onnx.ModelProto) -> list[str]:
    """Return the operators whose inputs and outputs are quantised."""
    present = {node.op_type for node in model.graph.node}
    return [*_LAYERS, *(() if present & _FLOAT else _BETWEEN.split())]


def _calibrate(model: onnx.ModelProto, inputs: list[str], runner: Runner, rows: NDArray[Any]) -> Any:
    """Return the range of every activation."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    if len(rows) == 0:
        raise ModelError("Calibration needs at least one input.")
    runner(rows[:1])  # says which shape is wanted when these have another
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, quiet_quantizer():
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        calibrator = create_calibrator(
            path,
            layers_and_between(model),
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
        )
        reader: Any = _Reader(inputs[0], np.ascontiguousarray(rows, runner.input.dtype))
        calibrator.collect_data(reader)
        return calibrator.compute_data()


def with_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of a graph's values by name, as onnx infers them."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _told(ranges: dict[str, tuple[float, float]]) -> Any:
    """Return ranges in the form that onnxruntime's quantiser takes."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    data: dict[str, Any] = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _quantize(model: onnx.ModelProto, ranges: Any, excluded: Sequence[str]) -> bytes:
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with quiet_quantizer():
        quantizer = QDQQuantizer(
            copied,
            True,  # a scale for each channel
            False,
            QuantType.QInt8,
            QuantType.QUInt8,
            ranges,
            [],
            list(excluded),
            layers_and_between(model),
            {"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    del made.graph.value_info[:]
    made.ir_version = IR_VERSION
    made.producer_name, made.producer_version = "hedgerow", ""
    kept = [entry for entry in made.metadata_props if entry.key.startswith("hedgerow.")]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    for node in made.graph.node:
        node.doc_string = ""
    return serialize_model(made)


class _Reader:
    """Calibration inputs as onnxruntime wants them: one small batch after the other."""

    def __init__(self, name: str, rows: NDArray[Any]) -> None:
        self._batches = iter([{name: rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Keep the quantiser's log lines from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
