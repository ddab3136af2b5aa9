"""Limits of brokers that are not ours, and the chunks that fit them."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow_transport.manifest import DEFAULT_CHUNK_BYTES

# What is in a packet beside a chunk's data: fixed header, the longest topic, the chunk's own header.
PACKET_MARGIN_BYTES = 256
_STEP_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPreset:
    """A size of chunks for a broker.

    Parameters
    ----------
    chunk_bytes : int
    reason : str
        What the broker's maker says of its limits.
    """

    chunk_bytes: int
    reason: str


# As their makers tell. Topics have at most 6 levels, and a client subscribes to at most 5 filters: no limit
# on these is near (tests/toolkit/test_broker_limits.py).
BROKER_PRESETS = {
    "any": BrokerPreset(
        chunk_bytes=DEFAULT_CHUNK_BYTES, reason="fits brokers that take packets of at most 64 kB"
    ),
    "aws-iot": BrokerPreset(chunk_bytes=120 << 10, reason="AWS IoT Core takes payloads of at most 128 kB"),
    "azure-event-grid": BrokerPreset(
        chunk_bytes=DEFAULT_CHUNK_BYTES, reason="Azure Event Grid takes 64 kB unacknowledged at a time"
    ),
    "emqx-serverless": BrokerPreset(
        chunk_bytes=256 << 10,
        reason="EMQX Serverless takes messages of at most 1 MB, and ten a second from a client",
    ),
    "lan": BrokerPreset(chunk_bytes=256 << 10, reason="for a broker of your own and a good network"),
}


def fitting_chunk_bytes(wanted: int, *, max_packet_bytes: int | None) -> int:
    """Return the largest size of chunks that fits a broker's limit, at most `wanted`.

    Where the limit decides it is a multiple of 1 KiB, 0 when nothing fits.

    >>> fitting_chunk_bytes(262_144, max_packet_bytes=131_072)
    130048
    >>> fitting_chunk_bytes(49_152, max_packet_bytes=None)
    49152
    """
    if max_packet_bytes is None or wanted + PACKET_MARGIN_BYTES < max_packet_bytes:
        return wanted
    return max(0, (max_packet_bytes - PACKET_MARGIN_BYTES - 1) // _STEP_BYTES * _STEP_BYTES)
