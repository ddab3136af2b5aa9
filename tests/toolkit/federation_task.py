"""A task for the tests of this folder: 64 samples of eight numbers, three classes; slow on demand."""

import time

import numpy as np
from torch import nn


def build_model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def samples(seed, count):
    inputs = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return inputs, inputs[:, :3].argmax(1)


def load_data(data, client):
    if data is not None and (data / "slow").exists():
        global pause_s
        pause_s = 0.1
    if data is not None and (data / "empty").exists():
        return np.zeros((0, 8), np.float32), np.zeros(0, np.int64)
    return samples(sum(client.encode()), 64)


def load_test_data(data):
    return samples(0, 30)


def loss(outputs, targets):
    time.sleep(pause_s)
    return nn.functional.cross_entropy(outputs, targets)


pause_s = 0.0
