"""Layouts and masks small enough to read, shared by the tests of the codecs."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec


@pytest.fixture
def layout() -> Layout:
    """A convolution, a norm, and a linear layer: 107 parameters, 86 of them prunable."""
    return Layout(
        tensors=(
            TensorSpec(name="conv.weight", shape=(4, 1, 3, 3), kind="conv", prunable=True),
            TensorSpec(name="conv.bias", shape=(4,), kind="bias", prunable=False),
            TensorSpec(name="norm.weight", shape=(4,), kind="norm", prunable=False),
            TensorSpec(name="norm.bias", shape=(4,), kind="norm", prunable=False),
            TensorSpec(name="norm.running_var", shape=(4,), kind="buffer", prunable=False),
            TensorSpec(name="fc.weight", shape=(5, 10), kind="linear", prunable=True),
            TensorSpec(name="fc.bias", shape=(5,), kind="bias", prunable=False),
        )
    )


@pytest.fixture
def mask(layout: Layout) -> Mask:
    """Every third prunable parameter pruned."""
    live = np.ones(layout.num_parameters, np.bool_)
    live[np.flatnonzero(layout.prunable())[::3]] = False
    return Mask(layout=layout, live=live)


@pytest.fixture
def values(mask: Mask) -> np.ndarray:
    """Values as clients send them: most small, a few large."""
    rng = np.random.default_rng(5)
    return (1e-3 * rng.standard_t(2, mask.num_live)).astype(np.float32)
