"""A model in the form in which its activations can be counted, and the counting.

The gateway makes the form, with onnx; a device runs it, with onnxruntime alone: every tensor that int8 needs
a range of is an output.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ModelError, QuantizationError
from hedgerow_export.fusing import fuse_constants
from hedgerow_export.metadata import PREFIX
from hedgerow_export.model_proto import check_bytes, parse_model, serialize_model
from hedgerow_export.optional import require
from hedgerow_export.ranges import DIGEST_BYTES, MAX_TENSORS, ActivationRanges, Histogram
from hedgerow_export.runner import load_session, runtime_errors
from hedgerow_export.tidying import IR_VERSION

if TYPE_CHECKING:
    import onnx

MARK = "calibrates"
_SEEN_INPUT = "hedgerow_input"
_BATCH = 16
# Between two sums of histograms at most so many values of one tensor are held.
_CHUNK_VALUES = 1 << 22


def fused_form(model: bytes) -> onnx.ModelProto:
    """Return the graph that is quantised: constants computed, every node with a name of its own."""
    fused = fuse_constants(parse_model(model))
    fused.ir_version = IR_VERSION
    for number, node in enumerate(fused.graph.node):
        node.name = f"{number}_{node.op_type}"
    return fused


def calibration_form(model: bytes) -> bytes:
    """Return a model whose outputs, after the first, are the activations that int8 needs ranges of.

    Parameters
    ----------
    model : bytes
        A float model that `hedgerow export` wrote, not stored sparsely.

    Raises
    ------
    QuantizationError
        There is nothing to quantise.
    ModelError
        The bytes are no model.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnx import helper

    fused = fused_form(model)
    digest = form_digest(fused)
    names = calibrated_tensors(fused)
    given = {entry.name for entry in fused.graph.input}
    first = fused.graph.output[0].name
    for name in names:
        if name in given:
            fused.graph.node.append(helper.make_node("Identity", [name], [_SEEN_INPUT], name=_SEEN_INPUT))
            name = _SEEN_INPUT
        if name != first:
            fused.graph.output.append(onnx.ValueInfoProto(name=name))
    del fused.metadata_props[:]
    fused.metadata_props.add(key=PREFIX + MARK, value=digest.hex())
    return serialize_model(fused)


def calibrated_tensors(fused: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that int8 needs ranges of, in order.

    Raises
    ------
    QuantizationError
        There are none, or more than can be coded.
    """
    from onnx import TensorProto

    from hedgerow_export.quantizing import layers_and_between, quantizable, with_types

    if not quantizable(fused):
        raise QuantizationError("The model has no convolution or linear layer that could be quantised.")
    wanted = set(layers_and_between(fused))
    kinds = with_types(fused)
    held = {tensor.name for tensor in fused.graph.initializer}
    found = {
        name
        for node in fused.graph.node
        if node.op_type in wanted
        for name in (*node.input, *node.output)
        if kinds.get(name) == TensorProto.FLOAT and name not in held
    }
    # The first output is always there, so that who runs the form need not know whether it is wanted.
    found.add(fused.graph.output[0].name)
    if len(found) > MAX_TENSORS:
        raise QuantizationError(f"The model has {len(found)} activations; at most {MAX_TENSORS} are counted.")
    return sorted(found)


def form_digest(fused: onnx.ModelProto) -> bytes:
    """Return the digest of a fused graph, whatever it says about itself."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(fused)
    del bare.metadata_props[:]
    bare.producer_name = bare.producer_version = ""
    return blake2b(bare.SerializeToString(deterministic=True), digest_size=DIGEST_BYTES).digest()


def is_of_form(found: ActivationRanges, form: bytes) -> bool:
    """Say whether histograms are of the model that a form for calibration is of."""
    model = parse_model(form)
    told = {entry.key: entry.value for entry in model.metadata_props}
    same = found.model.hex() == told.get(PREFIX + MARK)
    return same and len(found.histograms) == len(model.graph.output)


def count_activations(form: bytes, rows: NDArray[Any]) -> ActivationRanges:
    """Run a model in its form for calibration, and count.

    Parameters
    ----------
    form : bytes
        From `calibration_form`.
    rows : ndarray, shape (n, ...)
        Real inputs, at least one.

    Returns
    -------
    ActivationRanges
        Histograms in the order of the form's outputs.

    Raises
    ------
    ModelError
        It is no such form, or does not take these inputs.
    """
    check_bytes(form)
    session = load_session(form)
    about = dict(session.get_modelmeta().custom_metadata_map)
    try:
        digest = bytes.fromhex(about.get(PREFIX + MARK, ""))
    except ValueError:
        digest = b""
    outputs, entries = session.get_outputs(), session.get_inputs()
    if len(digest) != DIGEST_BYTES or len(entries) != 1 or not 1 <= len(outputs) <= MAX_TENSORS:
        raise ModelError(
            "The model is not in its form for calibration: hedgerow deliver --calibrate makes that."
        )
    if len(rows) == 0:
        raise ModelError("There are no inputs to count the activations of.")
    histograms = [Histogram()] * len(outputs)
    kind = np.dtype(np.float32) if entries[0].type == "tensor(float)" else rows.dtype
    for start in range(0, len(rows), _BATCH):
        batch = np.ascontiguousarray(rows[start : start + _BATCH], kind)
        try:
            found = session.run(None, {entries[0].name: batch})
        except runtime_errors() as error:
            raise ModelError(f"The model fails on a batch of {len(batch)} local inputs.") from error
        histograms = [held + _counted(values) for held, values in zip(histograms, found, strict=True)]
    return ActivationRanges(model=digest, rows=len(rows), histograms=tuple(histograms))


def tensor_ranges(
    fused: onnx.ModelProto, found: ActivationRanges, *, clipping: str = "error"
) -> dict[str, tuple[float, float]]:
    """Return ranges by tensor of a fused graph.

    Raises
    ------
    ModelError
        The histograms are of another model.
    """
    names = calibrated_tensors(fused)
    if found.model != form_digest(fused) or len(names) != len(found.histograms):
        raise ModelError(
            "The ranges are of another model or round: gather them again, with the float model that is "
            "exported now (hedgerow export without --quantize and --sparse, hedgerow deliver --calibrate)."
        )
    first = fused.graph.output[0].name
    order = [first, *(name for name in names if name != first)]
    return dict(zip(order, found.ranges(clipping), strict=True))


def _counted(values: Any) -> Histogram:
    flat = np.asarray(values).reshape(-1)
    total = Histogram()
    for start in range(0, flat.size, _CHUNK_VALUES):
        total = total + Histogram.of(flat[start : start + _CHUNK_VALUES])
    return total
