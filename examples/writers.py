"""Handwritten digits, a client is a writer: MNIST with writers' numbers, the first 100 of 539."""

import numpy as np
from packs import read_pack, rows_of
from torch import nn


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
        nn.Linear(64, 10),
    )


def scaled(images):
    return images[:, np.newaxis].astype(np.float32) / 255


def load_data(data, client):
    x, y, writers = read_pack("mnist_writers", "x_train", "y_train", "writer_train")
    mine = rows_of(client, writers)
    return scaled(x[mine]), y[mine].astype(np.int64)


def load_test_data(data):
    x, y = read_pack("mnist_writers", "x_test", "y_test")
    return scaled(x), y.astype(np.int64)


loss = nn.functional.cross_entropy
