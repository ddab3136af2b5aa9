"""The task of benchmark B1: the SmallCNN of the FedDST comparison on MNIST or Fashion-MNIST.

conv 3x3x32, ReLU, maxpool 2, conv 3x3x64, ReLU, maxpool 2, fc 3136-128, ReLU, fc 128-10: 421,642 parameters.
Inputs are divided by 255 and nothing else.
"""

import numpy as np
import torch
from torch import nn


def build_model():
    # The ReLUs come after the pools here: the maximum of what is cut at 0 is the maximum, cut at 0, with the
    # same gradients. With channels last, a batch takes half the time.
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3136, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).to(memory_format=torch.channels_last)


def load_data(data, client):
    with np.load(data / "train.npz", allow_pickle=False) as pack:
        return pack["inputs"], pack["targets"]


def load_test_data(data):
    with np.load(data.parent / "test.npz", allow_pickle=False) as pack:
        return pack["inputs"], pack["targets"]


def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)
