"""What a client session asks its process to do: values, carried out by the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from hedgerow_transport import Publication, RoundPlan
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTraining:
    """Train `plan.epochs` epochs from `weights` under `live`, then tell the session.

    Parameters
    ----------
    round
        The round the update is for, from 1.
    plan
        How to train, as the coordinator sent it.
    weights
        Flat float32 vector `(num_parameters,)`: the published model.
    live
        Boolean vector `(num_parameters,)`: the mask.
    """

    round: int
    plan: RoundPlan
    weights: NDArray[np.float32]
    live: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTraining:
    """Stop the training that is under way; its result is not wanted any more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Tell the person at the device one sentence."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """End the session: the run is over, or it cannot go on."""

    reason: str
    failed: bool = False


Action = Publication | StartTraining | CancelTraining | Say | Leave
