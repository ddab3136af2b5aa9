"""The digits 5 to 9 by writer, for a net that knows 0 to 4: `python -m examples.transfer_runs` compares."""

import numpy as np
from packs import read_pack, rows_of
from torch import nn

# Writers whose digits 0 to 4 the net was trained on; the clients are others.
KNOWN_WRITERS = slice(100, 539)
NEW = 5


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1568, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )


def scaled(images):
    return images[:, np.newaxis].astype(np.float32) / 255


def load_data(data, client):
    x, y, writers = read_pack("mnist_writers", "x_train", "y_train", "writer_train")
    mine = rows_of(client, writers)
    mine = mine[y[mine] >= NEW]
    return scaled(x[mine]), y[mine].astype(np.int64) - NEW


def load_test_data(data):
    x, y = read_pack("mnist_writers", "x_test", "y_test")
    return scaled(x[y >= NEW]), y[y >= NEW].astype(np.int64) - NEW


def known_digits():
    """Return what the net is trained on before the federation: the digits 0 to 4 of other writers."""
    x, y, writers = read_pack("mnist_writers", "x_train", "y_train", "writer_train")
    rows = np.isin(writers, np.unique(writers)[KNOWN_WRITERS]) & (y < NEW)
    return scaled(x[rows]), y[rows].astype(np.int64)


loss = nn.functional.cross_entropy
