"""What one client and the coordinator say to each other: catching up, missing chunks, offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from hedgerow_transport.bitmap import MAX_BITMAP_BYTES
from hedgerow_transport.fields import MAX_TOTAL, Choice, Integer, Numbers, Octets, Real, Sentence
from hedgerow_transport.manifest import (
    CHUNK_BYTES,
    DEFAULT_CHUNK_BYTES,
    DIGEST,
    RUN,
    VERSION_OR_NOTHING,
    Blob,
    BlobRef,
    Blobs,
)
from hedgerow_transport.message import Message, decode_one_of, on_wire
from hedgerow_transport.topics import DIGEST_BYTES

ACK_STATUSES = ("accepted", "duplicate", "late", "refused", "anew")
MAX_ROUTE_STEPS = 64
BITMAP = Octets(0, MAX_BITMAP_BYTES)
DIGEST_OR_EMPTY = Octets(0, DIGEST_BYTES, unit=DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Message):
    """Ask the coordinator for the way from ``version`` (-1: nothing) to the manifest's version."""

    TAG: ClassVar[int] = 3
    MAX_BYTES: ClassVar[int] = 256

    version: int = field(metadata=on_wire("w", VERSION_OR_NOTHING))
    model: bytes = field(metadata=on_wire("d", DIGEST))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Message):
    """Answer `Sync`: apply ``steps`` in order on ``base_version`` (-1: on nothing) to get ``version``."""

    TAG: ClassVar[int] = 4
    MAX_BYTES: ClassVar[int] = 4096

    version: int = field(metadata=on_wire("w", Integer()))
    steps: tuple[BlobRef, ...] = field(metadata=on_wire("x", Blobs(MAX_ROUTE_STEPS)))
    base_version: int = field(metadata=on_wire("b", VERSION_OR_NOTHING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Need(Message):
    """Ask for chunks of a blob: bit i of ``bitmap`` is set where chunk i is missing."""

    TAG: ClassVar[int] = 5
    MAX_BYTES: ClassVar[int] = MAX_BITMAP_BYTES + 256

    digest: bytes = field(metadata=on_wire("d", DIGEST))
    bitmap: bytes = field(metadata=on_wire("b", BITMAP))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Message):
    """Offer an update: what it is, what it weighs (``num_samples``), and what it took to make it.

    ``received_bytes`` are the PUBLISH bytes that reached this client since its last offer; ``train_s`` is in
    seconds; ``estimate`` is the digest of the EF21 estimate that the update is relative to.
    """

    TAG: ClassVar[int] = 6
    MAX_BYTES: ClassVar[int] = 4096

    run: str = field(metadata=on_wire("r", RUN))
    round: int = field(metadata=on_wire("n", Integer()))
    update: BlobRef = field(metadata=on_wire("u", Blob()))
    num_samples: int = field(metadata=on_wire("k", Integer(1, 2**40)))
    metrics: Mapping[str, float] = field(default_factory=dict, metadata=on_wire("m", Numbers(16)))
    received_bytes: int = field(default=0, metadata=on_wire("g", Integer(0, MAX_TOTAL)))
    train_s: float = field(default=0.0, metadata=on_wire("s", Real(0.0, 1e8)))
    chunk_bytes: int = field(default=DEFAULT_CHUNK_BYTES, metadata=on_wire("c", CHUNK_BYTES))
    estimate: bytes = field(default=b"", metadata=on_wire("e", DIGEST_OR_EMPTY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept(Message):
    """Ask a client for the chunks of its update that are not in ``have``."""

    TAG: ClassVar[int] = 7
    MAX_BYTES: ClassVar[int] = MAX_BITMAP_BYTES + 256

    run: str = field(metadata=on_wire("r", RUN))
    round: int = field(metadata=on_wire("n", Integer()))
    digest: bytes = field(metadata=on_wire("d", DIGEST))
    have: bytes = field(default=b"", metadata=on_wire("b", BITMAP))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """Tell a client the fate of its update; only now may it forget the bytes."""

    TAG: ClassVar[int] = 8
    MAX_BYTES: ClassVar[int] = 1024

    run: str = field(metadata=on_wire("r", RUN))
    round: int = field(metadata=on_wire("n", Integer()))
    digest: bytes = field(metadata=on_wire("d", DIGEST))
    status: str = field(metadata=on_wire("s", Choice(ACK_STATUSES)))
    reason: str = field(default="", metadata=on_wire("y", Sentence(512)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline(Message):
    """Tell the coordinator that this round will get no answer from here."""

    TAG: ClassVar[int] = 9
    MAX_BYTES: ClassVar[int] = 1024

    run: str = field(metadata=on_wire("r", RUN))
    round: int = field(metadata=on_wire("n", Integer()))
    reason: str = field(default="", metadata=on_wire("y", Sentence(512)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebirth(Message):
    """Ask a client to say its birth message again: the coordinator has heard of it, and does not know it."""

    TAG: ClassVar[int] = 13
    MAX_BYTES: ClassVar[int] = 64


def decode_down(data: bytes) -> Accept | Ack | Route | Rebirth:
    """Decode a payload of ``down/<client>``.

    Raises
    ------
    MessageError
        When it is none of these, or a wrong one.
    """
    message = decode_one_of(data, (Accept, Ack, Route, Rebirth))
    assert isinstance(message, (Accept, Ack, Route, Rebirth))
    return message
