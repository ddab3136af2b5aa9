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
    mode = "" if data is None else (data / "mode").read_text()
    if mode == "empty":
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    if mode == "exits":
        sys.exit(3)
    if mode == "leaves":
        os._exit(7)
    if mode == "sleeps":
        time.sleep(60)
    if mode == "hungry":
        return torch.zeros(2**50), None
    if mode == "asks":
        return input("which folder? ")
    inputs = np.arange(24, dtype=np.float64).reshape(12, 2) / 24
    if mode == "nan":
        inputs[5, 1] = np.nan
    return inputs, np.arange(12) % 3


def load_test_data(data):
    inputs, targets = load_data(data, "a")
    return inputs[:5], targets[:5]


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
