"""The model file that a run leaves behind: written whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow_codecs import Mask
from hedgerow_export.errors import ExportError, VerificationError
from hedgerow_export.filling import fill_template
from hedgerow_export.runner import Runner
from hedgerow_export.verification import Verification, sample_inputs, verify_model


def export_model(
    template: bytes,
    flat: NDArray[np.float32],
    mask: Mask,
    *,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    inputs: ArrayLike | None = None,
    reference: NDArray[Any] | None = None,
    tolerance: float = 1e-4,
) -> Verification:
    """Fill a template with pruned weights, verify the model, and write it in one step.

    Parameters
    ----------
    template : bytes
        From `make_template`.
    flat : ndarray, float32, shape (num_parameters,)
        Weights; the ones that the mask takes away are written as zeros.
    mask : Mask
    path : Path
        The file. An older one there is replaced at the very end, or stays as it was.
    metadata : Mapping[str, str], optional
        Facts to write into the model (``run``, ``round``, ``accuracy`` ...); ``density``, ``parameters`` and
        ``mask`` are added.
    inputs, reference, tolerance
        See `verify_model`. Without inputs, random ones are used.

    Returns
    -------
    Verification
        Its `ok` is True.

    Raises
    ------
    VerificationError
        The model does not compute what it should; nothing was written.
    ExportError
        A weight is not a finite number, a template and weights do not fit, or the file cannot be written.
    """
    model, result = fill_checked(
        template, flat, mask, metadata=metadata, inputs=inputs, reference=reference, tolerance=tolerance
    )
    write_atomically(path, model)
    return result


def fill_checked(
    template: bytes,
    flat: NDArray[np.float32],
    mask: Mask,
    *,
    metadata: Mapping[str, str] | None = None,
    inputs: ArrayLike | None = None,
    reference: NDArray[Any] | None = None,
    tolerance: float = 1e-4,
) -> tuple[bytes, Verification]:
    """Fill a template with pruned weights and verify the model; arguments and errors as `export_model`."""
    layout = mask.layout
    live = np.where(mask.live, flat, np.float32(0)) if flat.shape == mask.live.shape else flat
    if not np.isfinite(live).all():
        raise ExportError(f"The weights of tensor {_first_broken(live, mask)!r} are not finite numbers.")
    facts = {
        **(metadata or {}),
        "density": f"{mask.density:.6g}",
        "parameters": str(layout.num_parameters),
        "mask": mask.digest.hex(),
    }
    model = fill_template(template, live, layout=layout, metadata=facts)
    rows = sample_inputs(Runner(model)) if inputs is None else inputs
    result = verify_model(model, rows, reference, tolerance=tolerance)
    if not result.ok:
        raise VerificationError(
            f"The exported model is off by {result.max_abs_error:.3g} from its reference "
            f"(allowed: {result.allowed_error:.3g}); nothing was written.",
            verification=result,
        )
    return model, result


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at every moment its path holds the old content or the whole new one.

    Raises
    ------
    ExportError
        The folder is missing or full, or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without this a power cut can undo the rename. Not every file system can do it, and the file is whole
    # anyway.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_broken(flat: NDArray[np.float32], mask: Mask) -> str:
    parts = mask.layout.split(flat)
    return next(name for name, part in parts.items() if not np.isfinite(part).all())
