"""Counters of the bytes of PUBLISH packets, as they stand on the wire."""

from __future__ import annotations

import threading

from hedgerow_transport.topics import parse_topic

OTHER_KIND = "other"


def publish_bytes(topic: str, payload: bytes, qos: int = 0) -> int:
    """Return the length in bytes of the MQTT 3.1.1 PUBLISH packet (MQTT 3.1.1, 3.3).

    Fixed header (1 byte and 1 to 4 of remaining length), topic with its 2-byte length, packet identifier (2
    bytes, for QoS 1 and 2), payload. MQTT 5 adds 1 byte of (no) properties, which is left out, so that both
    links and both protocol versions count alike.

    >>> publish_bytes("a/b", b"12345"), publish_bytes("a/b", b"12345", 1)
    (12, 14)
    """
    remaining = 2 + len(topic.encode()) + (2 if qos else 0) + len(payload)
    num_length_bytes = max(1, -(-remaining.bit_length() // 7))
    return 1 + num_length_bytes + remaining


class Traffic:
    """Count packets and bytes by direction and topic kind; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}

    def count_sent(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        """Count a PUBLISH packet that goes out."""
        self._count("sent", topic, payload, qos)

    def count_received(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        """Count a PUBLISH packet that came in."""
        self._count("received", topic, payload, qos)

    @property
    def sent_bytes(self) -> int:
        """Bytes of all packets that went out."""
        return self._total("sent")

    @property
    def received_bytes(self) -> int:
        """Bytes of all packets that came in."""
        return self._total("received")

    def snapshot(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return ``{"sent" | "received": {topic kind: {"messages": int, "bytes": int}}}``.

        Kinds are those of `ParsedTopic`, and ``other`` for topics that are not ours.
        """
        with self._lock:
            counted: dict[str, dict[str, dict[str, int]]] = {"sent": {}, "received": {}}
            for (direction, kind), (messages, num_bytes) in sorted(self._counts.items()):
                counted[direction][kind] = {"messages": messages, "bytes": num_bytes}
            return counted

    def _count(self, direction: str, topic: str, payload: bytes, qos: int) -> None:
        parsed = parse_topic(topic)
        num_bytes = publish_bytes(topic, payload, qos)
        with self._lock:
            entry = self._counts.setdefault((direction, parsed.kind if parsed else OTHER_KIND), [0, 0])
            entry[0] += 1
            entry[1] += num_bytes

    def _total(self, direction: str) -> int:
        with self._lock:
            return sum(num_bytes for (way, _), (_, num_bytes) in self._counts.items() if way == direction)
