"""What the coordinator says to everybody: where the run stands, which blobs make it, and how to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar

from hedgerow_transport.bitmap import MAX_CHUNKS
from hedgerow_transport.errors import MessageError
from hedgerow_transport.fields import (
    MAX_COUNT,
    MAX_TOTAL,
    Choice,
    Config,
    Integer,
    Name,
    Octets,
    Real,
    Sentence,
    check_sequence,
)
from hedgerow_transport.message import Message, Record, on_wire
from hedgerow_transport.topics import DIGEST_BYTES

BLOB_KINDS = ("plan", "seed", "keyframe", "mask", "mask_delta", "model_delta", "update", "export")
MANIFEST_STATES = ("waiting", "round", "finished", "failed")
RUN_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
FEEDBACK_PATTERN = "[a-z0-9-]{1,16}"
COHORT_HASH_BYTES = 4
MAX_COHORT = 120
MAX_MANIFEST_STEPS = 8
MIN_CHUNK_BYTES = 16
MAX_CHUNK_BYTES = 1 << 20
# Brokers and gateways that cap messages do so at 64 kB and more: room for topic and header stays.
DEFAULT_CHUNK_BYTES = 48 << 10

RUN = Name(RUN_PATTERN)
DIGEST = Octets(DIGEST_BYTES, DIGEST_BYTES)
CHUNK_BYTES = Integer(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)
VERSION_OR_NOTHING = Integer(-1, MAX_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef(Record):
    """Name a blob: what it is, its blake2b-128 digest, and its length in bytes."""

    kind: str = field(metadata=on_wire("", Choice(BLOB_KINDS)))
    digest: bytes = field(metadata=on_wire("", DIGEST))
    size: int = field(metadata=on_wire("", Integer(1, 2**32 - 1)))


@dataclass(frozen=True, slots=True)
class Blob:
    """Field kind of one `BlobRef`; on the wire ``[kind, digest, size]``."""

    def check(self, value: Any) -> BlobRef:
        if not isinstance(value, BlobRef):
            raise MessageError(f"must be a BlobRef, is a {type(value).__name__}")
        return value

    def to_plain(self, value: BlobRef) -> list[Any]:
        return [BLOB_KINDS.index(value.kind), value.digest, value.size]

    def from_plain(self, value: Any) -> BlobRef:
        # More entries than three: a later version may add some.
        entries = check_sequence(value, max_entries=8)
        if len(entries) < 3:
            raise MessageError(f"must be [kind, digest, size], has {len(entries)} entries")
        return BlobRef(kind=Choice(BLOB_KINDS).from_plain(entries[0]), digest=entries[1], size=entries[2])


@dataclass(frozen=True, slots=True)
class Blobs:
    """Field kind of a tuple of `BlobRef`, in the order in which they are applied."""

    max_entries: int

    def check(self, value: Any) -> tuple[BlobRef, ...]:
        return tuple(Blob().check(entry) for entry in check_sequence(value, max_entries=self.max_entries))

    def to_plain(self, value: tuple[BlobRef, ...]) -> list[Any]:
        return [Blob().to_plain(entry) for entry in value]

    def from_plain(self, value: Any) -> tuple[BlobRef, ...]:
        return tuple(
            Blob().from_plain(entry) for entry in check_sequence(value, max_entries=self.max_entries)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Message):
    """Say where the run stands: retained, below 1 kB, and all that a client needs to catch up and take part.

    ``steps`` lead from ``base_version`` (-1: from nothing) to ``version``; a client elsewhere asks with
    `Sync`. An empty ``cohort`` invites everybody. ``deadline_s`` is the time in seconds that the round has
    from its start.
    """

    TAG: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 999

    run: str = field(metadata=on_wire("r", RUN))
    state: str = field(metadata=on_wire("s", Choice(MANIFEST_STATES)))
    round: int = field(metadata=on_wire("n", Integer()))
    attempt: int = field(metadata=on_wire("a", Integer()))
    version: int = field(metadata=on_wire("w", Integer()))
    layout: bytes = field(metadata=on_wire("l", DIGEST))
    mask: bytes = field(metadata=on_wire("m", DIGEST))
    model: bytes = field(metadata=on_wire("d", DIGEST))
    plan: BlobRef = field(metadata=on_wire("p", Blob()))
    steps: tuple[BlobRef, ...] = field(metadata=on_wire("x", Blobs(MAX_MANIFEST_STEPS)))
    base_version: int = field(metadata=on_wire("b", VERSION_OR_NOTHING))
    cohort: bytes = field(
        default=b"",
        metadata=on_wire("c", Octets(0, COHORT_HASH_BYTES * MAX_COHORT, unit=COHORT_HASH_BYTES)),
    )
    deadline_s: float = field(metadata=on_wire("e", Real(0.0, 1e8)))
    chunk_bytes: int = field(default=DEFAULT_CHUNK_BYTES, metadata=on_wire("k", CHUNK_BYTES))
    # With everything else at its largest, this much is left below 1000 bytes.
    reason: str = field(default="", metadata=on_wire("y", Sentence(80)))

    def invites(self, client: str) -> bool:
        """Say whether a client belongs to the cohort (one in four billion strangers is invited by chance)."""
        wanted = cohort_hash(client)
        starts = range(0, len(self.cohort), COHORT_HASH_BYTES)
        return not self.cohort or any(self.cohort[i : i + COHORT_HASH_BYTES] == wanted for i in starts)


def cohort_hash(client: str) -> bytes:
    """Return the 4 bytes (blake2b-32 of the name) that stand for a client in a cohort."""
    return blake2b(client.encode(), digest_size=COHORT_HASH_BYTES).digest()


def encode_cohort(clients: Iterable[str]) -> bytes:
    """Return the ``cohort`` field of a manifest for these clients, in an order that does not tell theirs.

    Raises
    ------
    MessageError
        For more than `MAX_COHORT` clients: leave the cohort empty and let the plan choose among the answers.
    """
    hashes = sorted({cohort_hash(client) for client in clients})
    if len(hashes) > MAX_COHORT:
        raise MessageError(
            f"holds {len(hashes)} clients, at most {MAX_COHORT} fit: invite everybody with an empty one",
            message="Manifest",
            field="cohort",
        )
    return b"".join(hashes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan(Message):
    """Say how to train and how to encode in a round: the content of a ``plan`` blob."""

    TAG: ClassVar[int] = 2
    MAX_BYTES: ClassVar[int] = 16_384

    seed: int = field(metadata=on_wire("s", Integer(0, MAX_TOTAL)))
    epochs: int = field(metadata=on_wire("e", Integer(1, 1_000_000)))
    batch_size: int = field(metadata=on_wire("b", Integer(1, 1_000_000)))
    learning_rate: float = field(metadata=on_wire("l", Real(0.0, 1e6)))
    momentum: float = field(default=0.0, metadata=on_wire("m", Real(0.0, 1.0)))
    weight_decay: float = field(default=0.0, metadata=on_wire("w", Real(0.0, 1e6)))
    proximal_mu: float = field(default=0.0, metadata=on_wire("p", Real(0.0, 1e6)))
    codec: Mapping[str, Any] = field(metadata=on_wire("c", Config()))
    max_seconds: float = field(metadata=on_wire("x", Real(0.0, 1e8)))
    # A word and not a choice: a client must be able to name the one that it does not know.
    feedback: str = field(default="residual", metadata=on_wire("f", Name(FEEDBACK_PATTERN)))
    residual_decay: float = field(default=1.0, metadata=on_wire("d", Real(0.0, 1.0)))
    # What is asked beside the update, and who trains which part; empty where the mask says it all.
    pruning: Mapping[str, Any] = field(default_factory=dict, metadata=on_wire("q", Config()))


def chunk_count(size: int, chunk_bytes: int) -> int:
    """Return into how many chunks a blob of `size` bytes is cut.

    Raises
    ------
    MessageError
        For more than `MAX_CHUNKS`, or a chunk size out of bounds.
    """
    CHUNK_BYTES.check(chunk_bytes)
    num_chunks = -(-size // chunk_bytes)
    if not 1 <= num_chunks <= MAX_CHUNKS:
        raise MessageError(
            f"{size} bytes make {num_chunks} chunks of {chunk_bytes} bytes, 1 to {MAX_CHUNKS} are allowed"
        )
    return num_chunks
