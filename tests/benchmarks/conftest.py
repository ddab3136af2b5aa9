"""Makes the benchmarks, which are not installed, importable."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.codec.cases import Case  # noqa: E402  # needs the path above

from hedgerow_codecs import Layout, Mask, TensorSpec  # noqa: E402


@pytest.fixture
def layout() -> Layout:
    """A matrix whose rows differ in size by far, and a bias."""
    return Layout(
        tensors=(
            TensorSpec(name="fc.weight", shape=(80, 100), kind="linear", prunable=True),
            TensorSpec(name="fc.bias", shape=(80,), kind="bias", prunable=False),
        )
    )


@pytest.fixture
def case(layout: Layout) -> Case:
    """An update drawn by a seed; nothing is pruned."""
    rng = np.random.default_rng(7)
    rows = rng.lognormal(sigma=1.5, size=(80, 1)) * rng.laplace(size=(80, 100))
    flat = np.concatenate([rows.reshape(-1), rng.laplace(size=80)]).astype(np.float32)
    return Case(name="drawn/raw", mask=Mask.dense(layout), vectors=(flat, flat[::-1].copy()), source="a seed")
