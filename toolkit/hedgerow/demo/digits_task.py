"""A task file, as a user would write one: handwritten digits of 8x8 pixels and a small CNN.

`hedgerow demo` splits scikit-learn's digits into one folder for each client, with a `train.npz`, and puts
`test.npz` beside them.
"""

import numpy as np
import torch
from torch import nn


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def load_data(data, client):
    with np.load(data / "train.npz") as pack:
        return pack["inputs"], pack["targets"]


def load_test_data(data):
    with np.load(data.parent / "test.npz") as pack:
        return pack["inputs"], pack["targets"]


def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)
