"""What tests of several packages use."""

from collections.abc import Iterator

import pytest

from hedgerow_codecs.stages.compiled import without_compiled_loops


@pytest.fixture(scope="session", autouse=True)
def numpy_alone() -> Iterator[None]:
    """Decode by numpy: numba would be loaded in the midst of any test, once much has been decoded."""
    with without_compiled_loops():
        yield


@pytest.fixture(scope="session")
def crashing_model() -> bytes:
    """Return a small ONNX file that passes the checker and kills the process that loads it.

    Its constants divide the smallest 64-bit integer by -1, which onnxruntime computes while it loads the
    model; on x86 that is a trap (SIGFPE).
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Div", ["least", "minus"], ["q"]),
        helper.make_node("Reshape", ["x", "q"], ["y"]),
    ]
    values = {"least": np.array([-(2**63)], np.int64), "minus": np.array([-1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())
