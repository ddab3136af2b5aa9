"""What a client session asks its process to do: values, carried out by the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hedgerow_edge_client.requests import TrainRequest
from hedgerow_transport import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTraining:
    """Train, then tell the session what came of it."""

    request: TrainRequest


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
