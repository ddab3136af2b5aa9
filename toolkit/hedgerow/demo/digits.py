"""Write the demo's data: scikit-learn's handwritten digits, split among the clients by label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hedgerow.errors import UsageError
from hedgerow.partition import dirichlet_split

ALPHA = 0.3
TEST_SHARE = 5  # every fifth image of a class
MIN_SAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsData:
    """Where the data lies, and how much there is.

    Parameters
    ----------
    folders
        One for each client, with a ``train.npz``; named like the client.
    num_train, num_test
        Images.
    """

    folders: tuple[Path, ...]
    num_train: int
    num_test: int


def write_digits(directory: Path, *, num_clients: int, seed: int) -> DigitsData:
    """Write one folder for each client, and ``test.npz`` beside them.

    Images are float32 ``(n, 1, 8, 8)`` in [0, 1]; targets int64 ``(n,)``, 0 to 9. The 1,797 images come with
    scikit-learn (from the UCI repository, E. Alpaydin and C. Kaynak, 1998).

    Raises
    ------
    hedgerow.errors.UsageError
        When scikit-learn is missing, or there are too many clients for so few images.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the demo needs scikit-learn: pip install 'hedgerow[demo]'") from error
    flat, labels = load_digits(return_X_y=True)
    images = (flat / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    held_out = np.zeros(len(labels), np.bool_)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[::TEST_SHARE]] = True
    train = np.flatnonzero(~held_out)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "test.npz", inputs=images[held_out], targets=labels[held_out])
    folders = []
    parts = dirichlet_split(
        labels[train], num_clients=num_clients, alpha=ALPHA, seed=seed, min_samples=MIN_SAMPLES
    )
    for number, part in enumerate(parts):
        folder = directory / f"client-{number}"
        folder.mkdir()
        np.savez(folder / "train.npz", inputs=images[train[part]], targets=labels[train[part]])
        folders.append(folder)
    return DigitsData(folders=tuple(folders), num_train=len(train), num_test=int(held_out.sum()))
