"""What the server makes of a round's mean update: federated averaging, with momentum, or Adam.

The mean update takes the place of a negative gradient (Reddi et al. 2021, "Adaptive federated optimization",
algorithm 2). Plain averaging is "sgd" at learning rate 1 without momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask
from hedgerow_coordinator.settings import check_choice, check_range

OPTIMIZERS = ("sgd", "adam")
Moments = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationSettings:
    """``[aggregation]``: how the server goes along the mean update.

    Parameters
    ----------
    optimizer : str
        ``sgd``: FedAvg (McMahan 2017), with `server_momentum` FedAvgM (Hsu 2019). ``adam``: FedAdam (Reddi
        2021), for which a `server_learning_rate` about 0.01 is usual.
    server_learning_rate : float
        Above 0; 1 is plain averaging.
    server_momentum : float
        In [0, 1): the share of the step before that is taken again; for ``adam`` its beta_1.
    second_moment_decay, epsilon : float
        For ``adam`` alone: beta_2, and what is added to the root of the second moment (tau).
    ema : float
        In [0, 1): share of the weights' moving average that stays from version to version; 0 keeps none. The
        average is measured and exported in place of the weights; what is broadcast are the weights.
    outlier_ratio : float
        An update is left out when its norm is more than so many times the median of the others', and more
        than the model's own: see `outliers`. At least 2; 0 compares nothing.
    """

    optimizer: str = "sgd"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    second_moment_decay: float = 0.99
    epsilon: float = 1e-3
    ema: float = 0.0
    outlier_ratio: float = 10.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_range("server_learning_rate", self.server_learning_rate, above=0)
        check_range("server_momentum", self.server_momentum, least=0, below=1)
        check_range("second_moment_decay", self.second_moment_decay, least=0, below=1)
        check_range("ema", self.ema, least=0, below=1)
        check_range("epsilon", self.epsilon, above=0, most=1)
        if self.outlier_ratio != 0:
            check_range("outlier_ratio", self.outlier_ratio, least=2)


def server_step(
    mean: NDArray[np.float64], *, mask: Mask, moments: Moments, settings: AggregationSettings
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float32]]]:
    """Return how far the live weights move, and the optimiser's state after it.

    Parameters
    ----------
    mean
        Weighted mean of the updates, ``(mask.num_live,)``.
    mask
        The round's mask. What it does not hold neither moves nor remembers: a weight that grows again later
        starts without momentum.
    moments
        The state before, arrays of ``(num_parameters,)`` by name; empty before the first round.
    settings
        Which optimiser.

    Returns
    -------
    tuple
        The step, float64, ``(mask.num_live,)``; and the new state. Not finite where the numbers leave
        float32; the caller looks.
    """
    rate, beta = settings.server_learning_rate, settings.server_momentum
    kept: dict[str, NDArray[np.float32]] = {}

    def before(name: str) -> NDArray[np.float64]:
        if name not in moments:
            return np.zeros(mask.num_live, np.float64)
        return moments[name][mask.positions].astype(np.float64)

    def after(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        kept[name] = mask.scatter(values.astype(np.float32))
        return values

    with np.errstate(over="ignore", invalid="ignore"):
        if settings.optimizer == "adam":
            first = after("first", beta * before("first") + (1.0 - beta) * mean)
            decay = settings.second_moment_decay
            second = after("second", decay * before("second") + (1.0 - decay) * (mean * mean))
            return rate * first / (np.sqrt(second) + settings.epsilon), kept
        if beta:
            mean = after("first", beta * before("first") + mean)
        return rate * mean, kept
