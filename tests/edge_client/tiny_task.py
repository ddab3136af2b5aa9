"""A task for the tests of this folder: 12 samples of two numbers, three classes."""

import os
import sys
import time

import numpy as np
import torch
from torch import nn

print("the task is loaded")

protect = ("1.weight",)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, inputs):
        print("\x00\x00\x00\x05 a line that could be taken for a frame", flush=True)
        os.write(1, b"\xff\xff\xff\xff")
        return super().forward(inputs)


def build_model():
    return Net()


def load_data(data, client):
    if client == "empty":
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    if client == "exits":
        sys.exit(3)
    if client == "leaves":
        os._exit(7)
    if client == "sleeps":
        time.sleep(60)
    if client == "hungry":
        return torch.zeros(2**50), None
    if client == "asks":
        return input("which folder? ")
    inputs = np.arange(24, dtype=np.float64).reshape(12, 2) / 24
    if client == "nan":
        inputs[5, 1] = np.nan
    return inputs, np.arange(12) % 3


def load_test_data(data):
    inputs, targets = load_data(data, "test")
    return inputs[:5], targets[:5]


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
