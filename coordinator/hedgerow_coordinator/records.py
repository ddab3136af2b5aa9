"""What a run's journal tells: rounds, updates, clients, events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hedgerow_coordinator.settings import NAME, NAME_RULE, check_choice, check_pattern, check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One attempt at one round.

    Parameters
    ----------
    round, attempt : int
        Round from 0 (the state before the first one) and attempt from 1.
    started, ended : float
        Unix time.
    seconds : float
        Duration by a clock that does not jump.
    cohort, updates : int
        Clients asked, and updates that went into the mean.
    density : float
        Of the mask that was trained under, in (0, 1].
    accuracy, loss : float or None
        Of the new model on the coordinator's data; None where it was not measured.
    uplink_bytes : int
        Received by the coordinator.
    broadcast_bytes : int
        Sent by the coordinator, each publish once however many receive it.
    delivered_bytes : int
        Received by the clients, summed over them.
    status : str
        ``committed`` or ``failed``.
    reason : str
        Why it failed.
    """

    round: int
    attempt: int = 1
    started: float
    ended: float
    seconds: float
    cohort: int = 0
    updates: int = 0
    density: float = 1.0
    accuracy: float | None = None
    loss: float | None = None
    uplink_bytes: int = 0
    broadcast_bytes: int = 0
    delivered_bytes: int = 0
    status: str = "committed"
    reason: str = ""

    def __post_init__(self) -> None:
        check_range("round", self.round, least=0)
        check_range("attempt", self.attempt, least=1)
        check_choice("status", self.status, ("committed", "failed"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """One client's answer to one round.

    Parameters
    ----------
    round, attempt : int
    client : str
    digest : bytes
        blake2b-128 of the frame.
    num_bytes : int
        Length of the frame.
    num_samples : int
        Behind the update; its weight in the mean.
    received : float
        Unix time.
    train_s : float
        Seconds of training on the device.
    received_bytes : int
        What the device received for this round.
    loss : float or None
        On the device, after training.
    metrics : Mapping[str, float]
        What else the device told.
    """

    round: int
    attempt: int = 1
    client: str
    digest: bytes
    num_bytes: int
    num_samples: int
    received: float
    train_s: float = 0.0
    received_bytes: int = 0
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The name becomes a file's name.
        check_pattern("client", self.client, NAME, rule=NAME_RULE)
        check_range("round", self.round, least=0)


def mean_personal(records: Sequence[UpdateRecord]) -> tuple[float | None, int]:
    """Return how good devices' own models are on what they hold out, by samples, and how many told it."""
    told = [record for record in records if "personal" in record.metrics]
    samples = sum(record.num_samples for record in told)
    if not samples:
        return None, 0
    return sum(record.metrics["personal"] * record.num_samples for record in told) / samples, len(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUpdate:
    """An update and its frame as it came over the wire."""

    record: UpdateRecord
    frame: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSummary:
    """What one client has done in a run; `loss` is its last, `last_seen` the Unix time of its last update."""

    client: str
    updates: int
    num_samples: int
    uplink_bytes: int
    received_bytes: int
    train_s: float
    loss: float | None
    last_round: int
    last_seen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Something that happened, for the reader of a report: Unix time, a kind in a word, a sentence."""

    time: float
    kind: str
    detail: str
