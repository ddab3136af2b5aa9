"""`hedgerow export --width`: the model of a device that has the first channels of each layer."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hedgerow.main import main
from hedgerow_codecs import Mask
from hedgerow_coordinator import RoundRecord, RunStore, ServerState
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_export import DeviceModel, make_template

PLAN = """
[run]
name = "t"
rounds = 2
[pruning]
policy = "{policy}"
{tiers}density = 1.0
"""
TIERS = 'tier_by = "width"\ntiers = { "a" = 0.5 }\n'


def net(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * 16, 5),
    )


def new_run(folder: Path, *, policy: str, tiers: str) -> nn.Module:
    torch.manual_seed(1)
    module = net(8)
    layout = module_layout(module)
    template = make_template(module, torch.randn(2, 1, 6, 6), layout=layout)
    plan = PLAN.format(policy=policy, tiers=tiers).encode()
    flat = read_parameters(module, layout)
    state = ServerState(version=1, mask=Mask.dense(layout), weights=flat, published=flat)
    with RunStore.create(folder, plan_bytes=plan, template_bytes=template, run_id="t") as store:
        for number in (0, 1):
            record = RoundRecord(round=number, started=1.0, ended=2.0, seconds=1.0)
            store.commit_round(
                record, ServerState(version=number, mask=state.mask, weights=flat, published=flat)
            )
    return module


def test_half_of_the_width_is_the_smaller_model(tmp_path: Path) -> None:
    module = new_run(tmp_path / "run", policy="tiered", tiers=TIERS)
    output = tmp_path / "half.onnx"
    assert main(["export", str(tmp_path / "run"), "-o", str(output), "--width", "0.5"]) == 0
    half = net(4)
    with torch.no_grad():
        for mine, whole in zip(half.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.ndim == 2:
                mine.copy_(whole[:, :64])
            elif mine.ndim:
                mine.copy_(whole[tuple(slice(size) for size in mine.shape)])
    half.eval()
    inputs = torch.randn(7, 1, 6, 6)
    with torch.no_grad():
        expected = half(inputs).numpy()
    np.testing.assert_allclose(DeviceModel(output).predict(inputs.numpy()), expected, atol=1e-5)
    shapes = [tuple(tensor.dims) for tensor in onnx.load(output).graph.initializer]
    assert (4, 4, 3, 3) in shapes
    assert not any(8 in shape for shape in shapes)


def test_a_width_is_for_runs_that_have_widths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_run(tmp_path / "run", policy="none", tiers="")
    call = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "half.onnx")]
    assert main([*call, "--width", "0.5"]) == 2
    assert "is for runs whose devices have models of different widths" in capsys.readouterr().err
    assert main([*call, "--width", "0"]) == 2
    assert not (tmp_path / "half.onnx").exists()
