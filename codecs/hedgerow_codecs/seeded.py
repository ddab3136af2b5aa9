"""First models from a seed: PyTorch's default distributions, the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.layout import Layout


def seeded_parameters(layout: Layout, *, seed: int) -> NDArray[np.float32]:
    """Draw a model's first parameters."""
    raise NotImplementedError


def encode_seeded(layout: Layout, *, seed: int) -> bytes:
    """Encode a seed as a keyframe."""
    raise NotImplementedError


def decode_seeded(frame: bytes, *, layout: Layout) -> NDArray[np.float32]:
    """Draw the parameters that a seeded frame stands for."""
    raise NotImplementedError
