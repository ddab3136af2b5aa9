"""Split a data set among clients, as federated benchmarks do."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgerow.errors import UsageError

# A draw that leaves a client with too little is drawn again, so often at the most.
ATTEMPTS = 1000


def dirichlet_split(
    labels: ArrayLike, *, num_clients: int, alpha: float, seed: int, min_samples: int = 1
) -> list[NDArray[np.int64]]:
    """Split by label: each class is dealt out to the clients by shares drawn from Dirichlet(alpha).

    The protocol of Hsu, Qi and Brown (2019) as commonly used: small `alpha` gives each client few classes.

    Parameters
    ----------
    labels
        Class of every sample, integers ``(n,)``.
    num_clients
        At least 1.
    alpha
        Concentration, above 0.
    seed
        Of the draw.
    min_samples
        Every client gets at least so many.

    Returns
    -------
    list of ndarray
        Sample numbers of each client, ascending; together every sample once.

    Raises
    ------
    hedgerow.errors.UsageError
        When an argument is out of range, or no draw gives every client `min_samples`.

    Examples
    --------
    >>> [part.tolist() for part in dirichlet_split([0, 0, 1, 1], num_clients=1, alpha=0.5, seed=7)]
    [[0, 1, 2, 3]]
    """
    classes = np.asarray(labels)
    if num_clients < 1 or alpha <= 0 or num_clients * min_samples > len(classes):
        raise UsageError(
            f"cannot split {len(classes)} samples among {num_clients} clients "
            f"with alpha {alpha} and at least {min_samples} each"
        )
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        owner = np.empty(len(classes), np.int64)
        for label in np.unique(classes):
            members = rng.permutation(np.flatnonzero(classes == label))
            shares = np.cumsum(rng.dirichlet(np.full(num_clients, alpha)))
            cuts = np.floor(shares[:-1] * len(members) + 0.5).astype(np.int64)
            for client, part in enumerate(np.split(members, cuts)):
                owner[part] = client
        parts = [np.flatnonzero(owner == client) for client in range(num_clients)]
        if min(len(part) for part in parts) >= min_samples:
            return parts
    raise UsageError(
        f"none of {ATTEMPTS} draws gave each of {num_clients} clients {min_samples} samples: raise alpha"
    )
