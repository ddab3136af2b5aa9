"""Images to train and test on: Fashion-MNIST where HEDGEROW_DATA has it, else scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Inputs of shape (n, 1, 28, 28) in [0, 1], and classes."""

    inputs: NDArray[np.float32]
    classes: NDArray[np.int64]
    test_inputs: NDArray[np.float32]
    test_classes: NDArray[np.int64]
    source: str


def load_images(folder: Path | None) -> Images:
    """Return real images, all of 28x28."""
    pack = None if folder is None else folder / "fashion_mnist.npz"
    if pack is not None and pack.is_file():
        held = np.load(pack, allow_pickle=False)
        return Images(
            inputs=_scaled(held["x_train"], 255),
            classes=held["y_train"].astype(np.int64),
            test_inputs=_scaled(held["x_test"], 255),
            test_classes=held["y_test"].astype(np.int64),
            source="Fashion-MNIST",
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.repeat(np.repeat(digits.images, 3, axis=1), 3, axis=2)  # 8x8 to 24x24
    images = _scaled(np.pad(small, ((0, 0), (2, 2), (2, 2))), 16)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1297], order[1297:]
    return Images(
        inputs=images[train],
        classes=digits.target[train].astype(np.int64),
        test_inputs=images[test],
        test_classes=digits.target[test].astype(np.int64),
        source="scikit-learn's digits, enlarged",
    )


def _scaled(images: NDArray[np.generic], largest: float) -> NDArray[np.float32]:
    return (images.astype(np.float32) / np.float32(largest))[:, np.newaxis]
