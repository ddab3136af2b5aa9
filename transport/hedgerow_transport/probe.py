"""Find out what is at a broker's address, for a person who asks why nothing works."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.errors import BrokerError
from hedgerow_transport.mqtt_connection import open_connection


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What a broker said about itself.

    ``protocol`` is ``"5"``, ``"3.1.1"`` or ``""``; ``max_packet_bytes`` is None where the broker did not
    tell; ``reason`` is a sentence when it cannot be used, else empty.
    """

    reachable: bool
    protocol: str = ""
    max_packet_bytes: int | None = None
    reason: str = ""


def probe_broker(url: str, timeout_s: float = 5.0) -> BrokerFacts:
    """Connect, read what the broker says, and leave; never raises for a broker that does not answer."""
    try:
        return ask_broker(url, timeout_s)
    except BrokerError as error:
        return BrokerFacts(reachable=False, reason=str(error))


def ask_broker(url: str, timeout_s: float = 10.0) -> BrokerFacts:
    """Connect, read what the broker says, and leave.

    Raises
    ------
    BrokerError
        When it does not answer, or says no.
    """
    connection = open_connection(
        BrokerUrl.parse(url), client_id=f"hedgerow-probe-{secrets.token_hex(4)}", timeout_s=timeout_s
    )
    connection.farewell()
    return BrokerFacts(
        reachable=connection.retains,
        protocol=connection.protocol,
        max_packet_bytes=connection.max_packet_bytes,
        reason="" if connection.retains else "the broker keeps no retained messages, which Hedgerow needs",
    )
