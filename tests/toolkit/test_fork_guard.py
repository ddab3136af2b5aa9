"""A model file that crashes the library which reads it costs every command a sentence, and no more."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from hedgerow.exit_codes import ExitCode

TEST = pytest.mark.timeout(180)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "hedgerow.main", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(call, capture_output=True, text=True, env=environment, check=False, timeout=170)


@pytest.fixture
def bad(tmp_path: Path, crashing_model: bytes) -> Path:
    path = tmp_path / "bad.onnx"
    path.write_bytes(crashing_model)
    np.save(tmp_path / "rows.npy", np.zeros((2, 4), np.float32))
    return path


def check(done: subprocess.CompletedProcess[str], name: str) -> None:
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"hedgerow {name}: ")
    assert len(done.stderr.strip().splitlines()) == 1
    if platform.machine() == "x86_64":  # elsewhere it is an error like any other
        assert "crash" in done.stderr
        assert "(SIGFPE)" in done.stderr


@TEST
def test_infer_with_a_model_that_crashes(bad: Path) -> None:
    check(command("infer", bad, "--input", bad.parent / "rows.npy"), "infer")
    check(command("infer", bad, "--benchmark"), "infer")


@TEST
def test_deliver_and_calibrate_with_a_model_that_crashes(bad: Path, task: Path) -> None:
    check(command("deliver", bad), "deliver")
    check(command("calibrate", bad, "--task", task), "calibrate")


@TEST
def test_inspect_of_a_model_that_crashes_describes_it(bad: Path) -> None:
    done = command("inspect", bad)
    assert done.returncode == 0
    assert "Div" in done.stdout


@TEST
def test_a_coordinator_with_a_template_that_crashes(bad: Path, initialised: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    shutil.copytree(initialised, folder)
    shutil.copy(bad, folder / "template.onnx")
    done = command("coordinator", folder / "plan.toml")
    assert done.returncode == ExitCode.USAGE
    assert "template.onnx cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@TEST
def test_an_export_of_a_run_whose_template_crashes(bad: Path, initialised: Path, tmp_path: Path) -> None:
    from hedgerow_codecs import Mask
    from hedgerow_coordinator import RoundRecord, RunStore, ServerState
    from hedgerow_export import template_layout
    from hedgerow_export.metadata import write_layout

    template = (initialised / "template.onnx").read_bytes()
    layout = template_layout(template)
    # What crashes stands beside the true network: the constant division is an input of nothing else.
    model, crashing = onnx.load_from_string(template), onnx.load(bad)
    model.graph.initializer.extend(crashing.graph.initializer)
    model.graph.node.insert(0, crashing.graph.node[0])
    model.graph.node.append(onnx.helper.make_node("Reshape", [model.graph.output[0].name, "q"], ["more"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, [None]))
    del model.metadata_props[:]
    write_layout(model, layout)
    flat = np.ones(layout.num_parameters, np.float32)
    plan = (initialised / "plan.toml").read_bytes()
    with RunStore.create(
        tmp_path / "run", plan_bytes=plan, template_bytes=model.SerializeToString(), run_id="r-1"
    ) as store:
        for version in range(2):
            state = ServerState(version=version, mask=Mask.dense(layout), weights=flat, published=flat)
            store.commit_round(RoundRecord(round=version, started=0.0, ended=1.0, seconds=1.0), state)
    check(command("export", tmp_path / "run", "-o", tmp_path / "model.onnx"), "export")
    assert not (tmp_path / "model.onnx").exists()


@TEST
def test_a_command_that_is_stopped_ends_with_its_child(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["batch", 4])],
        [onnx.helper.make_tensor_value_info("y", 1, ["batch", 4])],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "good.onnx")
    call = [sys.executable, "-m", "hedgerow.main", "infer", str(tmp_path / "good.onnx"), "--input", "-"]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"0,0,1,0\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"0  2  1")
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == ExitCode.INTERRUPTED
    assert psutil.wait_procs([child], timeout=10)[1] == []
    process.stdin.close()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b"hedgerow infer: interrupted\n"
    process.stderr.close()
