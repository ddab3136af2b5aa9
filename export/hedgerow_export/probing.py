"""Values inside a graph, as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ModelError
from hedgerow_export.optional import require
from hedgerow_export.runner import load_session, runtime_errors

if TYPE_CHECKING:
    import onnx


def values_inside(
    model: onnx.ModelProto, names: Iterable[str], rows: NDArray[Any]
) -> dict[str, NDArray[np.float32]]:
    """Run a model and return values of its graph by name; names of weights are left out.

    Raises
    ------
    ModelError
        onnxruntime cannot run the model on these inputs.
    """
    require("onnx", "onnxruntime")
    import onnx

    made = {name for node in model.graph.node for name in node.output}
    given = {value.name for value in model.graph.input}
    wanted = sorted(set(names) & (made | given))
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.ClearField("output")
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name in made)
    found = {name: rows for name in wanted if name in given}
    if not opened.graph.output:
        return found
    session = load_session(opened.SerializeToString())
    entry = session.get_inputs()[0]
    try:
        outputs = session.run(None, {entry.name: rows})
    except runtime_errors() as error:
        raise ModelError(f"The model fails on a batch of {len(rows)}.") from error
    return found | dict(zip((value.name for value in opened.graph.output), outputs, strict=True))
