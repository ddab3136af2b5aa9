"""Where the examples' data is, and which part of it belongs to a client."""

import os
from pathlib import Path

import numpy as np

ARCHIVES = {
    "wisdm_watch": "WISDM smartphone and smartwatch activity, https://archive.ics.uci.edu/dataset/507",
    "mnist_writers": "MNIST with the writers' numbers of QMNIST, https://github.com/facebookresearch/qmnist",
    "heart_disease": "Heart Disease, four hospitals, https://archive.ics.uci.edu/dataset/45",
    "mitbih_beats": "MIT-BIH Arrhythmia Database, https://physionet.org/content/mitdb/1.0.0/",
    "cmapss_fd001": "C-MAPSS FD001, NASA's Prognostics Center of Excellence data repository",
}


def read_pack(name, *keys):
    """Return arrays of the pack `name`.npz in the folder that the variable HEDGEROW_DATA names."""
    folder = os.environ.get("HEDGEROW_DATA")
    made_from = f"{name}.npz is made from: {ARCHIVES[name]} (examples/README.md has its arrays)"
    if not folder:
        raise FileNotFoundError(f"set HEDGEROW_DATA to the folder with {name}.npz. {made_from}")
    path = Path(folder, f"{name}.npz")
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}. {made_from}")
    with np.load(path, allow_pickle=False) as pack:
        missing = [key for key in keys if key not in pack.files]
        if missing:
            raise ValueError(f"{path} has no array {missing[0]}. {made_from}")
        return [pack[key] for key in keys]


def rows_of(client, owners, *, groups=1):
    """Return the rows that belong to a client.

    `client-0` has the first owner in order, `client-1` the second; with `groups`, so many owners each. For
    `init`, which wants to see some data, it is the first client's.
    """
    everybody = np.unique(owners)
    number = "0" if client == "init" else client.rpartition("-")[2]
    mine = everybody[int(number) * groups : (int(number) + 1) * groups] if number.isdigit() else []
    if len(mine) == 0:
        raise ValueError(f"clients are client-0 to client-{len(everybody) // groups - 1}, not {client}")
    return np.flatnonzero(np.isin(owners, mine))
