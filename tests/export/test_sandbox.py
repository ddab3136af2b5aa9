"""A model that brings a process down costs an error in one sentence, not the process that asked."""

from __future__ import annotations

import platform
import threading
import time

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow_export import MetricError, ModelError, Sandbox, SandboxError, check_foreign
from hedgerow_export.sandbox import pack, unpack

RNG = np.random.default_rng(0)
# A busy machine takes seconds to start a process.
SECONDS = 60.0


def graph(*nodes: onnx.NodeProto, rank: int = 2, **weights: np.ndarray) -> bytes:
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString()


LINEAR = graph(helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.eye(4, 3, dtype=np.float32))


def endless() -> bytes:
    """Return a model that counts to 2**62."""
    state = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("Add", ["h", "h"], ["h_next"]),
        ],
        "body",
        [
            state("i", TensorProto.INT64, []),
            state("going", TensorProto.BOOL, []),
            state("h", TensorProto.FLOAT, None),
        ],
        [state("going_on", TensorProto.BOOL, []), state("h_next", TensorProto.FLOAT, None)],
    )
    return graph(
        helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body),
        count=np.array(2**62, np.int64),
        yes=np.array(True),
    )


def huge() -> bytes:
    """Return a model of 300 bytes that wants 64 GB as soon as it runs."""
    return graph(
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("Add", ["wide", "wide"], ["y"]),
        rank=3,
        shape=np.array([4_000_000_000, 1, 4], np.int64),
    )


def judge(
    model: bytes, *, seconds: float = SECONDS, mib: int = 1024, targets: np.ndarray | None = None
) -> dict:
    inputs = RNG.standard_normal((20, 4)).astype(np.float32)
    wanted = inputs[:, :3].argmax(1) if targets is None else targets
    arrays = {"inputs": inputs, "targets": wanted}
    sandbox = Sandbox(seconds=seconds, mib=mib)
    return sandbox.run("judge", {"model": model}, arrays=arrays, metric="accuracy", timed=True).words


def test_a_model_is_measured() -> None:
    found = judge(LINEAR)
    assert (found["value"], found["samples"]) == (1.0, 20)
    assert 0 < found["p50_ms"] < 1000


def test_what_a_good_model_takes_is_told() -> None:
    assert check_foreign(LINEAR)["input"] == {"name": "x", "dtype": "float32", "shape": [None, 4]}


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 30, bytes(4000), LINEAR[:-20]], ids=["empty", "text", "zeros", "cut"]
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError):
        check_foreign(data)


def test_a_model_for_other_data_and_targets_of_another_kind_are_refused() -> None:
    with pytest.raises(MetricError, match="targets go from 0 to 9"):
        judge(LINEAR, targets=np.arange(20) % 10)
    other = graph(helper.make_node("Relu", ["x"], ["y"])).replace(b"x", b"x")
    assert judge(other, targets=np.zeros(20, np.int64))["samples"] == 20


def test_a_model_that_never_ends_is_given_up() -> None:
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"took more than 8 s"):
        judge(endless(), seconds=8)
    assert time.monotonic() - started < 30


def test_a_model_that_wants_all_memory_is_given_up() -> None:
    before = psutil.virtual_memory().available
    with pytest.raises(ModelError):
        judge(huge())
    assert psutil.virtual_memory().available > before - (2 << 30)


def test_a_model_that_crashes_its_process_does_not_crash_ours(crashing_model: bytes) -> None:
    for call in (check_foreign, judge):
        with pytest.raises(ModelError) as caught:
            call(crashing_model)
        if platform.machine() == "x86_64":  # elsewhere dividing the smallest integer by -1 is no trap
            assert "crashes the process that loads it (SIGFPE)" in str(caught.value)
            assert isinstance(caught.value, SandboxError)


def test_a_job_can_be_stopped() -> None:
    sandbox = Sandbox(seconds=SECONDS)
    threading.Timer(2.0, sandbox.cancel).start()
    inputs = np.zeros((1, 4), np.float32)
    arrays = {"inputs": inputs, "targets": np.zeros(1, np.int64)}
    started = time.monotonic()
    with pytest.raises(SandboxError, match="was stopped"):
        sandbox.run("judge", {"model": endless()}, arrays=arrays, metric="accuracy", timed=False)
    assert time.monotonic() - started < SECONDS / 2
    with pytest.raises(SandboxError, match="was stopped"):
        sandbox.run("check", {"model": LINEAR})


@pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY", pack({"a": 1}, {})[:-30]])
def test_what_is_no_answer_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no archive|no words"):
        unpack(data)
    words, arrays = unpack(pack({"a": [1, "b"]}, {"x": np.arange(3)}))
    assert words == {"a": [1, "b"]}
    assert arrays["x"].tolist() == [0, 1, 2]
