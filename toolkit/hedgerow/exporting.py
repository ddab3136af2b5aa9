"""From a run directory to a checked ONNX file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.runs import open_finished_rounds
from hedgerow_coordinator import CHECK_DATA, RunStore, ServerState, read_arrays, read_test_data


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What an export wrote, and how it was checked; sizes in bytes."""

    round: int
    density: float
    onnx_bytes: int
    zip_bytes: int
    max_abs_error: float
    top1_agreement: float | None
    num_samples: int
    reference: str


def export_run(
    run: Path,
    *,
    output: Path,
    data: Path | None = None,
    reference: NDArray[np.generic] | None = None,
) -> ExportFacts:
    """Write the newest committed version of a run as ONNX.

    Parameters
    ----------
    run
        Run directory.
    output
        The file; replaced only by a model that agrees with the reference.
    data
        ``.npz`` with `inputs`; None takes those of the plan's test data that the run keeps, where it does.
    reference
        What the model should answer for these inputs, such as torch's outputs; None computes it by
        ``onnx.reference``.

    Raises
    ------
    hedgerow_export.ExportError
        When the model does not agree, or cannot be written.
    hedgerow.errors.UsageError
        When the run has no committed round, or the data no inputs.
    """
    from hedgerow_export import export_model, read_model

    with open_finished_rounds(run) as store:
        round_number, state = committed(store)
        verification = export_model(
            store.template_bytes(),
            state.weights,
            state.mask,
            path=output,
            metadata=_metadata(store, round_number),
            inputs=read_inputs(store, data),
            reference=reference,
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(output.name, read_model(output))
    return ExportFacts(
        round=round_number,
        density=state.mask.density,
        onnx_bytes=verification.onnx_bytes,
        zip_bytes=len(packed.getvalue()),
        max_abs_error=verification.max_abs_error,
        top1_agreement=verification.top1_agreement,
        num_samples=verification.num_samples,
        reference="the reference outputs" if verification.reference == "given" else verification.reference,
    )


def committed(store: RunStore) -> tuple[int, ServerState]:
    """Return the newest committed round and its state.

    Raises
    ------
    hedgerow.errors.UsageError
        When no round has been committed.
    """
    latest = store.latest()
    if latest is None or latest[0] == 0:
        raise UsageError(f"{store.directory} has no committed round yet")
    return latest


def read_inputs(store: RunStore, data: Path | None) -> NDArray[np.generic] | None:
    """Return the inputs to check with: from `data`, else those that the run keeps, else None."""
    if data is None:
        path = store.directory / CHECK_DATA
        return read_test_data(path)[0] if path.is_file() else None
    try:
        return read_arrays(data, "inputs")[0]
    except ValueError as error:
        raise UsageError(f"--data: {error}") from error


def _metadata(store: RunStore, round_number: int) -> dict[str, str]:
    facts = {"run": store.run_id, "round": str(round_number)}
    measured = [r for r in store.rounds() if r.round == round_number and r.accuracy is not None]
    if measured:
        facts[store.plan.evaluate.metric] = f"{measured[-1].accuracy:.6g}"
    return facts
