"""The exporter's graph made into a template's: small, anonymous, and with every weight under its own name."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hedgerow_codecs import Layout
from hedgerow_export.errors import TemplateError
from hedgerow_export.filling import find_tensors
from hedgerow_export.metadata import write_layout

if TYPE_CHECKING:
    import onnx

# onnxruntime refuses models with a newer IR than it knows; the newest onnx would write one.
IR_VERSION = 10


def tidy_graph(model: onnx.ModelProto, layout: Layout) -> onnx.ModelProto:
    """Return a template: first output only, constants folded, nothing in it but what is needed to run.

    Parameters
    ----------
    model : onnx.ModelProto
        What the exporter made, not optimised, the layout's tensors among its initialisers.
    layout : Layout

    Raises
    ------
    TemplateError
        A tensor of the layout has another shape or type, or the batch has a fixed size.
    """
    import onnx
    from onnxscript import optimizer

    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    specs = [spec for spec in layout.tensors if spec.name in held]
    own = [held[spec.name] for spec in specs]
    find_tensors(model, Layout(tensors=tuple(specs)))
    others = [tensor for tensor in graph.initializer if tensor.name not in {spec.name for spec in specs}]
    _replace(graph.initializer, others)
    if not graph.input or not graph.output:
        raise TemplateError("The exported graph has no input or no output: the module must use its input.")
    _replace(graph.output, [graph.output[0]])
    first = graph.input[0]
    # A value that the optimiser does not know is one that it can neither fold nor merge.
    weights = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in own]
    _replace(graph.input, [first, *weights])
    del graph.value_info[:]  # the exporter's shapes are stale after every change
    model = optimizer.optimize(model)
    if _simplify_reshapes(model.graph):
        model = optimizer.optimize(model)  # takes out what nothing reads any more
    _replace(model.graph.input, [value for value in model.graph.input if value.name == first.name])
    _replace(model.graph.initializer, [*own, *model.graph.initializer])
    del model.graph.value_info[:]
    model.ir_version = IR_VERSION
    _strip(model)
    write_layout(model, layout)
    _check_batch(model)
    return model


def _replace(field: Any, entries: Sequence[Any]) -> None:
    """Replace the entries of a repeated protobuf field."""
    copies = [copy.deepcopy(entry) for entry in entries]
    del field[:]
    field.extend(copies)


def _simplify_reshapes(graph: onnx.GraphProto) -> bool:
    """Write ``reshape(x, [shape(y)[0], 32])`` as ``reshape(x, [-1, 32])``; tell whether there was any.

    Flattening with a dynamic batch is exported as the first form. With all other sizes known and positive,
    the second one means the same, and it can be read without following three more nodes.
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    made = 0
    for node in graph.node:
        concat = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        if concat is None or concat.op_type != "Concat" or not _is_first_size(makers.get(concat.input[0])):
            continue
        if not all(name in values for name in concat.input[1:]):
            continue
        sizes = np.concatenate([numpy_helper.to_array(values[name]) for name in concat.input[1:]])
        if (sizes < 1).any():
            continue
        name = f"{node.output[0]}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array([-1, *sizes], np.int64), name))
        node.input[1] = name
        made += 1
    return made > 0


def _is_first_size(node: onnx.NodeProto | None) -> bool:
    """Tell whether a node is ``Shape(start=0, end=1)``."""
    if node is None or node.op_type != "Shape":
        return False
    return {entry.name: entry.i for entry in node.attribute} in ({"end": 1}, {"start": 0, "end": 1})


def _strip(model: onnx.ModelProto) -> None:
    """Take out names, paths and source lines of the machine that exported."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.domain, model.doc_string = "hedgerow", "", "", ""
    model.graph.name = "hedgerow"
    _strip_graph(model.graph)
    for function in model.functions:
        _clear(function)
        _strip_nodes(function.node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    _clear(graph)
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        _clear(entry)
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _clear(node)
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip_graph(graph)


def _clear(entry: Any) -> None:
    entry.doc_string = ""
    del entry.metadata_props[:]


def _check_batch(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        shape = value.type.tensor_type.shape
        if not shape.dim or shape.dim[0].HasField("dim_value"):
            size = shape.dim[0].dim_value if shape.dim else "no dimension"
            raise TemplateError(
                f"The module works with one batch size only: the {value.name}'s first dimension has become "
                f"{size}. Reshape with x.shape[0] or -1 for the batch, and keep the batch first."
            )
