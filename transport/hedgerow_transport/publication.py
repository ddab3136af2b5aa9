"""What a state machine wants to have published: a value, sent by the process loop that owns the link."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Hold one message on its way to a link.

    Parameters
    ----------
    topic
        Full MQTT topic.
    payload
        The bytes; empty with ``retain`` clears a retained message.
    retain
        Whether the broker keeps it for later subscribers.
    qos
        0 or 1. Chunks of a broadcast go with 0 (what is lost is asked for again), everything else with 1.
    """

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1

    def __post_init__(self) -> None:
        if self.qos not in (0, 1):
            raise ValueError(f"qos must be 0 or 1, found {self.qos}")
