"""SynFlow's scores from an ONNX template in numpy (Tanaka et al. 2020, equation 2 and the released code).

The net of magnitudes: every tensor of the layout is replaced by its magnitude, biases and norms as well, the
input is ones, and ``R`` is the sum of the outputs. The score of a weight is ``|w dR/d|w||``. The matrix
products are numpy's; their last bits may differ between machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning.flow_operators import OPERATORS, Array

Flow = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def synflow_of(template: bytes, layout: Layout) -> Flow:
    """Return what scores weights, flat float32 ``(num_parameters,)``, by SynFlow on a template's graph.

    Raises
    ------
    PruningError
        The graph has an operator that is not followed here; the message names it.
    """
    from hedgerow_export.model_proto import parse_model

    graph = parse_model(template).graph
    for node in graph.node:
        if node.op_type not in OPERATORS:
            raise PruningError(
                f"SynFlow cannot follow the operator '{node.op_type}' of this model (known: "
                f"{', '.join(sorted(OPERATORS))}): choose another score"
            )
    return lambda weights: _scores(graph, layout, weights)


def _scores(graph: Any, layout: Layout, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    from onnx import helper, numpy_helper

    values: dict[str, Array] = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    magnitudes = {name: np.abs(part).astype(np.float64) for name, part in layout.split(weights).items()}
    values |= magnitudes
    values[graph.input[0].name] = np.ones(_input_shape(graph), np.float64)
    tape: list[tuple[list[str], str, Callable[[Array], list[Array | None]]]] = []
    for node in graph.node:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        output, backward = OPERATORS[node.op_type](inputs, attributes)
        values[node.output[0]] = output
        tape.append((list(node.input), node.output[0], backward))
    gradients: dict[str, Array] = {
        entry.name: np.ones_like(values[entry.name], np.float64) for entry in graph.output
    }
    for names, output_name, backward in reversed(tape):
        if output_name not in gradients:
            continue
        for name, part in zip(names, backward(gradients.pop(output_name)), strict=False):
            if part is not None:
                gradients[name] = gradients[name] + part if name in gradients else part
    parts = {
        name: magnitude * gradients.get(name, np.zeros_like(magnitude))
        for name, magnitude in magnitudes.items()
    }
    scores = np.concatenate([parts[tensor.name].reshape(-1) for tensor in layout.tensors])
    return _in_float32(scores)


def _in_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Divide scores by the largest: many layers take them out of float32, and only their order counts."""
    if not np.isfinite(scores).all():
        raise PruningError("SynFlow's scores leave the range of float64: choose another score")
    largest = float(scores.max(initial=0.0))
    return (scores / largest if largest > 0 else scores).astype(np.float32)


def _input_shape(graph: Any) -> list[int]:
    """Return the shape of one row: dimensions without a number are 1."""
    return [max(1, int(dim.dim_value)) for dim in graph.input[0].type.tensor_type.shape.dim]
