"""Remaining useful life of turbofan engines, a regression: a client is a workshop with ten engines."""

import numpy as np
from packs import read_pack, rows_of
from torch import nn

# The 14 sensors that change at all in FD001, as columns of the pack, with this engine type's usual readings.
COLUMNS = [4, 5, 6, 9, 10, 11, 13, 14, 15, 16, 17, 19, 22, 23]
MIDDLE = [642.7, 1590, 1409, 553.4, 2388.1, 9065, 47.54, 521.4, 2388.1, 8144, 8.442, 393.2, 38.82, 23.29]
SPREAD = [0.5, 6.1, 9.0, 0.89, 0.071, 22, 0.27, 0.74, 0.072, 19, 0.038, 1.55, 0.18, 0.108]
ENGINES = 10
# Nobody can tell 200 cycles from 300: the target is capped, as is usual for this data set.
LONGEST = 125


metric = "mse"  # in cycles, squared


def build_model():
    return nn.Sequential(nn.Linear(14, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


def scaled(readings):
    columns = readings[:, COLUMNS]
    return ((columns - np.array(MIDDLE)) / np.array(SPREAD)).astype(np.float32)


def life(cycles):
    return np.minimum(cycles, LONGEST).astype(np.float32)[:, np.newaxis]


def load_data(data, client):
    x, y, units = read_pack("cmapss_fd001", "x_train", "y_train", "unit_train")
    mine = rows_of(client, units, groups=ENGINES)
    return scaled(x[mine]), life(y[mine])


def load_test_data(data):
    x, y = read_pack("cmapss_fd001", "x_test", "y_test")
    return scaled(x), life(y)


def loss(outputs, targets):
    # In units of the longest life, so that the learning rate is an ordinary one.
    return nn.functional.mse_loss(outputs / LONGEST, targets / LONGEST)
