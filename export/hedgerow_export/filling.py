"""A template and a flat vector in, a model with these weights out; and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export.errors import ModelError, TemplateError
from hedgerow_export.metadata import read_layout, write_metadata
from hedgerow_export.model_proto import parse_model, serialize_model

if TYPE_CHECKING:
    import onnx


def template_layout(template: bytes) -> Layout:
    """Return the layout stored in a template, checked against the template's initialisers.

    Raises
    ------
    ModelError
        The bytes are damaged, no ONNX model, or a model that Hedgerow did not make.
    TemplateError
        A tensor of the layout is not among the initialisers with its shape.
    """
    layout, _ = _open(parse_model(template))
    return layout


def template_parameters(template: bytes) -> NDArray[np.float32]:
    """Return the weights in a template or a model as a flat vector, shape ``(num_parameters,)``.

    Raises
    ------
    ModelError, TemplateError
        As `template_layout`.
    """
    layout, tensors = _open(parse_model(template))
    flat = np.empty(layout.num_parameters, np.float32)
    for name, part in layout.split(flat).items():
        part[...] = _values(tensors[name])
    return flat


def fill_template(
    template: bytes,
    flat: NDArray[np.float32],
    *,
    layout: Layout,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Put weights into a template by name.

    Parameters
    ----------
    template : bytes
        From `make_template`, or a model that was filled before.
    flat : ndarray, float32, shape (num_parameters,)
        The weights, in layout order.
    layout : Layout
        The layout that `flat` was made with.
    metadata : Mapping[str, str], optional
        Entries to write into the model; they replace earlier ones.

    Returns
    -------
    bytes
        A model that can be run.

    Raises
    ------
    TemplateError
        The template was made for another layout, or `flat` has another shape or type.
    ModelError
        The template is damaged or no model of Hedgerow's.
    MetadataError
        An entry cannot be written.
    """
    model = parse_model(template)
    own, tensors = _open(model)
    if own.digest != layout.digest:
        raise TemplateError(
            f"The template was made for layout {own.digest.hex()[:8]} and the weights are of layout "
            f"{layout.digest.hex()[:8]}: {_difference(own, layout)}. Make the template again from this task."
        )
    if flat.dtype != np.float32 or flat.shape != (layout.num_parameters,):
        raise TemplateError(
            f"The weights must be float32 of shape ({layout.num_parameters},), "
            f"got {flat.dtype} of shape {flat.shape}."
        )
    for name, part in layout.split(flat).items():
        if name.rpartition(".")[2] == "running_var":
            # A lossy codec may leave a small variance below zero, of which there is no square root.
            part = np.maximum(part, 0)
        tensors[name].ClearField("float_data")
        tensors[name].raw_data = part.astype("<f4").tobytes()  # ONNX is little-endian everywhere
    write_metadata(model, metadata or {})
    return serialize_model(model)


def find_tensors(model: onnx.ModelProto, layout: Layout) -> dict[str, onnx.TensorProto]:
    """Return the initialiser of every tensor of a layout.

    Raises
    ------
    TemplateError
        Names the first tensor that is missing, doubled, of another shape or not float32.
    """
    import onnx

    found: dict[str, onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        if tensor.name in found:
            raise TemplateError(f"Tensor {tensor.name!r} is in the model twice.", tensor=tensor.name)
        found[tensor.name] = tensor
    for spec in layout.tensors:
        held = found.get(spec.name)
        if held is None:
            raise TemplateError(
                f"Tensor {spec.name!r} of the layout is not among the weights of the model.", tensor=spec.name
            )
        if tuple(held.dims) != spec.shape:
            raise TemplateError(
                f"Tensor {spec.name!r} is {tuple(held.dims)} in the model and {spec.shape} in the layout.",
                tensor=spec.name,
            )
        if held.data_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(held.data_type)
            raise TemplateError(f"Tensor {spec.name!r} is {kind} in the model, not FLOAT.", tensor=spec.name)
    return {spec.name: found[spec.name] for spec in layout.tensors}


def _open(model: onnx.ModelProto) -> tuple[Layout, dict[str, onnx.TensorProto]]:
    layout = read_layout(model)
    if layout is None:
        raise ModelError("This ONNX model was not made by Hedgerow: it carries no layout.")
    return layout, find_tensors(model, layout)


def _values(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    if tensor.HasField("raw_data"):
        values = np.frombuffer(tensor.raw_data, "<f4").astype(np.float32)
    else:
        values = np.array(tensor.float_data, np.float32)
    return values.reshape(tuple(tensor.dims))


def _difference(own: Layout, other: Layout) -> str:
    for mine, theirs in zip(own.tensors, other.tensors, strict=False):
        if mine != theirs:
            return f"{_words(mine)} there, {_words(theirs)} here"
    return f"{len(own.tensors)} tensors there, {len(other.tensors)} here"


def _words(spec: TensorSpec) -> str:
    return f"{spec.name!r} {spec.shape} {spec.kind}{'' if spec.prunable else ', not prunable'}"
