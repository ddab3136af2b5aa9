"""Heart disease from 13 clinical values with many gaps: two classes, a client is one of four hospitals."""

import numpy as np
from packs import read_pack, rows_of
from torch import nn

# Rough middle and spread of each value among adults, so that no hospital tells its own.
MIDDLE = np.array([54, 0.5, 2.5, 130, 240, 0.2, 0.5, 140, 0.4, 1.0, 1.7, 0.7, 5], np.float32)
SPREAD = np.array([10, 0.5, 1.0, 20, 60, 0.4, 0.8, 25, 0.5, 1.0, 0.6, 0.9, 2], np.float32)
CHOLESTEROL = 4


def build_model():
    return nn.Sequential(nn.Linear(26, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))


def scaled(values):
    values = values.copy()
    values[values[:, CHOLESTEROL] == 0, CHOLESTEROL] = np.nan  # one hospital wrote 0 for "not measured"
    gaps = np.isnan(values)
    standard = np.where(gaps, 0, (values - MIDDLE) / SPREAD)
    return np.concatenate([standard, gaps], axis=1).astype(np.float32)


def load_data(data, client):
    x, y, hospitals = read_pack("heart_disease", "x_train", "y_train", "hospital_train")
    mine = rows_of(client, hospitals)
    return scaled(x[mine]), y[mine].astype(np.int64)


def load_test_data(data):
    x, y = read_pack("heart_disease", "x_test", "y_test")
    return scaled(x), y.astype(np.int64)


loss = nn.functional.cross_entropy
