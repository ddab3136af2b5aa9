"""What the demo found out: the numbers it prints and writes as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hedgerow_coordinator import RoundRecord, RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFacts:
    """The demo's outcome; bytes are those of MQTT PUBLISH packets, the downlink summed over its receivers.

    The fields of the dense run are None where it was not made.
    """

    accuracy: float
    dense_accuracy: float | None
    density: float
    rounds: int
    clients: int
    uplink_bytes: int
    downlink_bytes: int
    dense_uplink_bytes: int | None
    dense_downlink_bytes: int | None
    wall_s: float
    onnx_path: str
    onnx_bytes: int
    onnx_max_abs_error: float
    onnx_top1_agreement: float | None
    broadcast_bytes: int
    bytes_by_kind: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Return the facts as JSON values."""
        return asdict(self)


def downlink_bytes(store: RunStore, records: Sequence[RoundRecord]) -> int:
    """Return what the clients have received by their own count, their last word included."""
    farewells = store.traffic().get(("delivered", "farewell"), 0)
    return sum(record.delivered_bytes for record in records) + farewells


def bytes_by_kind(store: RunStore) -> dict[str, int]:
    """Return the coordinator's bytes by direction and topic kind, such as ``received chunk``."""
    return {
        f"{direction} {kind}": num
        for (direction, kind), num in sorted(store.traffic().items())
        if direction in ("sent", "received")
    }


def total_bytes(kinds: Mapping[str, int], direction: str) -> int:
    """Return the coordinator's bytes in a direction, ``sent`` or ``received``, over all kinds."""
    return sum(num for kind, num in kinds.items() if kind.split()[0] == direction)
