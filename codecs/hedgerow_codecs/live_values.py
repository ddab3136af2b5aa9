"""What a live vector must be, on its way in and on its way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError, UnencodableError
from hedgerow_codecs.mask import Mask

_BLOCK = 1 << 16


def check_encodable(values: NDArray[np.float32], *, mask: Mask, max_magnitude: float | None = None) -> None:
    """Check that values are one finite float32 per live parameter.

    Raises
    ------
    UnencodableError
        Otherwise, or where a magnitude is above `max_magnitude`; names the tensor.
    """
    if values.dtype != np.float32 or values.shape != (mask.num_live,):
        raise UnencodableError(
            f"values must be float32 of shape ({mask.num_live},), got {values.dtype} of {values.shape}"
        )
    limit = float(np.finfo(np.float32).max) if max_magnitude is None else max_magnitude
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]  # in the processor's cache when it is looked at again
        low, high = float(block.min()), float(block.max())  # NaN and infinity come through either
        if -limit <= low and high <= limit:
            continue
        bad = start + int(np.argmax(~(np.abs(block) <= limit)))
        name = tensor_at(bad, mask=mask)
        raise UnencodableError(
            f"tensor {name!r} has the value {values[bad]}, which cannot be encoded", tensor=name
        )


def check_decoded(values: NDArray[np.float32], *, mask: Mask) -> None:
    """Check that decoded values are finite.

    Raises
    ------
    PayloadError
        Otherwise; names the tensor.
    """
    finite = np.isfinite(values)
    if not np.all(finite):
        bad = int(np.argmin(finite))
        raise PayloadError(f"tensor {tensor_at(bad, mask=mask)!r} holds the value {values[bad]}")


def tensor_at(place: int, *, mask: Mask) -> str:
    """Return the name of the tensor that a place in the live vector belongs to."""
    tensor = int(np.searchsorted(np.cumsum(mask.lengths), place, side="right"))
    return mask.layout.tensors[tensor].name
