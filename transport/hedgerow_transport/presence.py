"""Who is there: retained births, and wills with the same session counter, so that late wills do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from hedgerow_transport.fields import MAX_TOTAL, Choice, Flag, Integer, Name, Scalar, Scalars, Sentence
from hedgerow_transport.manifest import RUN
from hedgerow_transport.message import Message, on_wire
from hedgerow_transport.topics import NAME_PATTERN

DEVICE_STATES = ("waiting", "fetching", "training", "sending", "paused")
# Unix seconds by the sender's clock; 0: not told.
TIME = Integer(0, MAX_TOTAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence(Message):
    """Say that a client is there, or (as its will) gone; ``session`` grows with each start of the client.

    ``at`` is when a birth or farewell was said; for a will, when the connection was made.
    """

    TAG: ClassVar[int] = 10
    MAX_BYTES: ClassVar[int] = 8192

    client: str = field(metadata=on_wire("c", Name(NAME_PATTERN)))
    session: int = field(metadata=on_wire("s", Integer(0, MAX_TOTAL)))
    online: bool = field(metadata=on_wire("o", Flag()))
    profile: Mapping[str, Scalar] = field(default_factory=dict, metadata=on_wire("p", Scalars(32)))
    at: int = field(default=0, metadata=on_wire("a", TIME))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState(Message):
    """Say what a client does since ``at``; it counts as long as its birth of that ``session`` stands."""

    TAG: ClassVar[int] = 12
    MAX_BYTES: ClassVar[int] = 512

    session: int = field(metadata=on_wire("s", Integer(0, MAX_TOTAL)))
    state: str = field(metadata=on_wire("w", Choice(DEVICE_STATES)))
    round: int = field(default=0, metadata=on_wire("n", Integer()))
    at: int = field(default=0, metadata=on_wire("a", TIME))
    reason: str = field(default="", metadata=on_wire("y", Sentence(120)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorState(Message):
    """Say that the coordinator of a run is there, or (as its will) gone."""

    TAG: ClassVar[int] = 11
    MAX_BYTES: ClassVar[int] = 1024

    run: str = field(metadata=on_wire("r", RUN))
    session: int = field(metadata=on_wire("s", Integer(0, MAX_TOTAL)))
    online: bool = field(metadata=on_wire("o", Flag()))
    message: str = field(default="", metadata=on_wire("y", Sentence(512)))
    at: int = field(default=0, metadata=on_wire("a", TIME))
