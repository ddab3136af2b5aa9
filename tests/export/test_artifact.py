import os
import stat
from pathlib import Path

import numpy as np
import pytest

from hedgerow_codecs import Mask
from hedgerow_export import (
    ExportError,
    ModelError,
    TemplateError,
    Verification,
    VerificationError,
    describe_model,
    export_model,
    read_model,
    template_parameters,
    verify_model,
)


@pytest.fixture
def half(mlp):
    """A mask that takes every second weight of the matrices."""
    live = ~mlp.layout.prunable() | (np.arange(mlp.layout.num_parameters) % 2 == 0)
    return Mask(layout=mlp.layout, live=live)


def test_pruned_model_is_written_with_its_facts(mlp, half, tmp_path: Path):
    flat = mlp.flat()
    pruned = np.where(half.live, flat, np.float32(0))
    reference = mlp.eager(pruned, mlp.inputs)
    path = tmp_path / "model.onnx"
    result = export_model(
        mlp.template,
        flat,
        half,
        path=path,
        metadata={"run": "demo", "round": "12", "accuracy": "0.91"},
        inputs=mlp.inputs,
        reference=reference,
    )
    assert result.ok
    assert result.max_abs_error < 1e-5
    assert result.top1_agreement == 1.0
    assert (result.num_samples, result.reference) == (6, "given")
    data = read_model(path)
    assert result.onnx_bytes == len(data)
    assert np.array_equal(template_parameters(data), pruned)
    told = describe_model(data)
    assert told["metadata"] == {
        "run": "demo",
        "round": "12",
        "accuracy": "0.91",
        "density": f"{half.density:.6g}",
        "parameters": "98",
        "mask": half.digest.hex(),
    }
    assert told["zeros_share"] == pytest.approx(1 - half.density)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_without_inputs_and_reference_it_is_checked_against_onnx_itself(mlp, half, tmp_path: Path):
    result = export_model(mlp.template, mlp.flat(), half, path=tmp_path / "m.onnx")
    assert (result.ok, result.reference, result.num_samples) == (True, "onnx.reference", 4)


def test_file_is_readable_as_the_umask_says(mlp, half, tmp_path: Path):
    before = os.umask(0o022)
    try:
        export_model(mlp.template, mlp.flat(), half, path=tmp_path / "m.onnx")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o644


def test_wrong_model_replaces_nothing(mlp, half, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")
    wrong = mlp.eager(mlp.flat(), mlp.inputs)  # dense weights, but the model is pruned
    with pytest.raises(VerificationError, match="nothing was written") as caught:
        export_model(mlp.template, mlp.flat(), half, path=path, inputs=mlp.inputs, reference=wrong)
    assert caught.value.verification is not None
    assert caught.value.verification.max_abs_error > 0.01
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_old_file_stays_when_the_disk_fails(mlp, half, tmp_path: Path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export_model(mlp.template, mlp.flat(), half, path=path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_missing_folder_is_a_sentence(mlp, half, tmp_path: Path):
    with pytest.raises(ExportError, match="cannot be written: No such file or directory"):
        export_model(mlp.template, mlp.flat(), half, path=tmp_path / "absent" / "m.onnx")


def test_weights_that_are_no_numbers_are_named(mlp, half, tmp_path: Path):
    flat = mlp.flat()
    flat[mlp.layout.offsets[2]] = np.nan  # live: even position of 2.weight
    assert half.live[mlp.layout.offsets[2]]
    with pytest.raises(ExportError, match=r"'2.weight' are not finite"):
        export_model(mlp.template, flat, half, path=tmp_path / "m.onnx")
    assert not os.listdir(tmp_path)


def test_pruned_weight_may_be_anything(mlp, half, tmp_path: Path):
    flat = mlp.flat()
    flat[1] = np.nan
    assert not half.live[1]
    assert export_model(mlp.template, flat, half, path=tmp_path / "m.onnx").ok


def test_wrong_length_is_a_template_error(mlp, half, tmp_path: Path):
    with pytest.raises(TemplateError, match=r"shape \(98,\), got float32 of shape \(3,\)"):
        export_model(mlp.template, np.zeros(3, np.float32), half, path=tmp_path / "m.onnx")


def test_mask_of_another_model_is_refused(mlp, residual, tmp_path: Path):
    mask = Mask.dense(residual.layout)
    with pytest.raises(TemplateError, match="was made for layout"):
        export_model(mlp.template, residual.flat(), mask, path=tmp_path / "m.onnx")


def test_reference_of_another_shape_is_refused(mlp):
    with pytest.raises(ModelError, match=r"outputs have shape \(6, 2\), the reference has \(6, 3\)"):
        verify_model(mlp.template, mlp.inputs, np.zeros((6, 3), np.float32))


def test_tolerance_grows_with_the_outputs_and_nan_never_passes(mlp):
    outputs = mlp.eager(mlp.flat(), mlp.inputs)
    off = outputs.copy()
    off[0, 0] += 0.01
    assert not verify_model(mlp.template, mlp.inputs, off).ok
    assert verify_model(mlp.template, mlp.inputs, off, tolerance=0.011).ok
    off[0, 0] = np.nan
    assert not verify_model(mlp.template, mlp.inputs, off, tolerance=1e9).ok


def test_allowed_error_is_what_decides():
    facts = {"top1_agreement": None, "num_samples": 1, "onnx_bytes": 1, "reference": "given"}
    assert Verification(max_abs_error=0.1, allowed_error=0.1, **facts).ok
    assert not Verification(max_abs_error=0.11, allowed_error=0.1, **facts).ok
    assert not Verification(max_abs_error=float("nan"), allowed_error=0.1, **facts).ok
