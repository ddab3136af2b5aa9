"""An exported model on offer to devices that use it, and what a device answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from hedgerow_transport.exchange import DIGEST_OR_EMPTY
from hedgerow_transport.fields import MAX_TOTAL, Choice, Flag, Integer, Name, Numbers, Octets, Real, Sentence
from hedgerow_transport.manifest import CHUNK_BYTES, DEFAULT_CHUNK_BYTES, DIGEST, Blob, BlobRef
from hedgerow_transport.message import Message, on_wire
from hedgerow_transport.presence import TIME

DELIVERY_PURPOSES = ("use", "calibrate")
# The first two are on the way; the others are the last word on a delivery.
OUTCOMES = ("fetching", "trying", "accepted", "worse", "refused", "measured")
UNDER_WAY = OUTCOMES[:2]
MAX_RANGES_BYTES = 12 << 10
# Names of devices with * and ? and [...], with commas between them.
PATTERNS = r"(?:[a-z0-9_*?\[\]!-]{1,64}(?:,[a-z0-9_*?\[\]!-]{1,64}){0,15})?"
DeliveryKey = tuple[bytes, str, int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Message):
    """Offer a model to devices: retained, and all that one needs to fetch it, try it and judge it.

    ``serial`` tells an offer from an earlier one of the same file. ``max_drop`` is by how much the model may
    be worse than the one in use: points of accuracy, for other metrics a share of the value in percent. An
    empty ``devices`` means everybody. While it is not ``open`` nobody sends the file.
    """

    TAG: ClassVar[int] = 14
    MAX_BYTES: ClassVar[int] = 900

    model: BlobRef = field(metadata=on_wire("m", Blob()))
    purpose: str = field(default="use", metadata=on_wire("p", Choice(DELIVERY_PURPOSES)))
    open: bool = field(default=True, metadata=on_wire("o", Flag()))
    serial: int = field(default=0, metadata=on_wire("n", Integer(0, MAX_TOTAL)))
    max_drop: float = field(default=0.5, metadata=on_wire("d", Real(0.0, 100.0)))
    devices: str = field(default="", metadata=on_wire("e", Name(PATTERNS)))
    chunk_bytes: int = field(default=DEFAULT_CHUNK_BYTES, metadata=on_wire("k", CHUNK_BYTES))
    at: int = field(default=0, metadata=on_wire("a", TIME))

    @property
    def key(self) -> DeliveryKey:
        """What an answer is about."""
        return self.model.digest, self.purpose, self.serial, self.max_drop

    def is_for(self, client: str) -> bool:
        """Say whether a device is meant."""
        return not self.devices or any(fnmatchcase(client, wish) for wish in self.devices.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport(Message):
    """Say what has become of a delivery on a device.

    ``model``, ``purpose``, ``serial`` and ``max_drop`` are those of the `Delivery`. ``numbers`` holds what
    was measured: ``before`` and ``after`` (of ``metric``, for the model in use and for this one, on the same
    local data), ``samples``, ``p50_ms`` for one input. ``in_use`` is the digest of the model in use from
    now on. ``ranges`` are coded histograms of activations, where they were asked for.
    """

    TAG: ClassVar[int] = 15
    MAX_BYTES: ClassVar[int] = MAX_RANGES_BYTES + 1024

    model: bytes = field(metadata=on_wire("m", DIGEST))
    purpose: str = field(default="use", metadata=on_wire("p", Choice(DELIVERY_PURPOSES)))
    serial: int = field(default=0, metadata=on_wire("n", Integer(0, MAX_TOTAL)))
    max_drop: float = field(default=0.5, metadata=on_wire("d", Real(0.0, 100.0)))
    outcome: str = field(metadata=on_wire("s", Choice(OUTCOMES)))
    reason: str = field(default="", metadata=on_wire("y", Sentence(300)))
    metric: str = field(default="", metadata=on_wire("c", Sentence(32)))
    numbers: Mapping[str, float] = field(default_factory=dict, metadata=on_wire("b", Numbers(8)))
    in_use: bytes = field(default=b"", metadata=on_wire("u", DIGEST_OR_EMPTY))
    ranges: bytes = field(default=b"", metadata=on_wire("r", Octets(0, MAX_RANGES_BYTES)))
    at: int = field(default=0, metadata=on_wire("a", TIME))

    @property
    def key(self) -> DeliveryKey:
        """The delivery that this is about."""
        return self.model, self.purpose, self.serial, self.max_drop

    @property
    def is_final(self) -> bool:
        """Whether this is the last word."""
        return self.outcome not in UNDER_WAY
