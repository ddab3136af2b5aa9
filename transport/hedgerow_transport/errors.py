"""Errors of the transport.

::

    TransportError
    ├── MessageError        a payload or a field of a message breaks a rule (also a ValueError)
    ├── MessageRefused      a message that its sender may not say, or not again
    ├── TopicError          a topic or a name is not one of ours (also a ValueError)
    ├── BlobError           a chunk or a stored blob is wrong
    ├── LinkError           this end of a link cannot do what was asked
    │   ├── LinkOverflow    the outgoing queue is full
    │   ├── LinkClosed      the link was closed by its owner
    │   └── PacketTooLarge  the broker would refuse a packet of this size
    ├── CredentialsError    keys or certificates are missing, damaged, or not for this (also a ValueError)
    └── BrokerError         the broker, or the way to it
        ├── BrokerUrlError     the URL of a broker cannot be understood (also a ValueError)
        ├── BrokerSettingError a setting for a broker of our own cannot be used (also a ValueError)
        ├── BrokerUnreachable  nothing that speaks MQTT answers there
        ├── BrokerRefused      the broker answered and said no
        └── BrokerMissing      no broker program is installed here
"""

from __future__ import annotations


class TransportError(Exception):
    """Root of every error that this package raises on purpose."""


class MessageError(TransportError, ValueError):
    """Report a payload or a field that breaks a rule; the sender is at fault.

    Attributes
    ----------
    message : str
        Name of the message type, for example ``"Offer"``.
    field : str
        Name of the field, or ``""`` when the payload as a whole is wrong.
    """

    def __init__(self, problem: str, *, message: str = "", field: str = "") -> None:
        self.message = message
        self.field = field
        where = ".".join(part for part in (message, field) if part)
        super().__init__(f"{where}: {problem}" if where else problem)


class MessageRefused(TransportError):
    """Report a message that was not let through.

    Attributes
    ----------
    sender : str
        Whose topic it came on: a client's name, or ``"the coordinator"``.
    reason : str
        One word: ``unsigned``, ``signed`` (and we have no credentials), ``stranger``, ``revoked``,
        ``expired``, ``forged`` or ``replayed``.
    """

    def __init__(self, *, sender: str, reason: str, advice: str) -> None:
        self.sender = sender
        self.reason = reason
        super().__init__(f"{_REFUSED[reason].format(sender)}: {advice}")


_REFUSED = {
    "unsigned": "a message of {} is not signed",
    "signed": "{} signs its messages, and they cannot be read without credentials",
    "stranger": "{} has no credentials here",
    "revoked": "the credentials of {} are revoked",
    "expired": "a message of {} has expired",
    "forged": "a message in the name of {} is forged",
    "replayed": "a message of {} came again",
}


class TopicError(TransportError, ValueError):
    """Report a topic, namespace or client name that is not one of ours."""


class BlobError(TransportError):
    """Report a chunk that does not belong, a digest that does not match, or a blob that is not there."""


class CredentialsError(TransportError, ValueError):
    """Report keys or certificates that cannot be used."""


class LinkError(TransportError):
    """Report what this end of a link cannot do."""


class LinkOverflow(LinkError):
    """Report a full outgoing queue: the caller sends faster than the network takes."""

    def __init__(self, *, queued_bytes: int, max_queued_bytes: int) -> None:
        self.queued_bytes = queued_bytes
        self.max_queued_bytes = max_queued_bytes
        super().__init__(
            f"{queued_bytes} bytes wait to be sent and {max_queued_bytes} are allowed: slow down or try later"
        )


class LinkClosed(LinkError):
    """Report use of a link after `close`."""


class PacketTooLarge(LinkError):
    """Report a packet above the largest that the broker takes."""

    def __init__(self, *, topic: str, packet_bytes: int, max_packet_bytes: int) -> None:
        self.topic = topic
        self.packet_bytes = packet_bytes
        self.max_packet_bytes = max_packet_bytes
        super().__init__(
            f"the packet for {topic} has {packet_bytes} bytes and the broker takes {max_packet_bytes}: "
            "use smaller chunks or raise the broker's limit"
        )


class BrokerError(TransportError):
    """Report a broker that cannot be used."""


class BrokerUrlError(BrokerError, ValueError):
    """Report a broker URL that cannot be understood."""


class BrokerSettingError(BrokerError, ValueError):
    """Report a setting for a broker of our own that cannot be used."""


class BrokerUnreachable(BrokerError):
    """Report that nothing speaking MQTT answered."""


class BrokerRefused(BrokerError):
    """Report that a broker answered and refused the connection."""


class BrokerMissing(BrokerError):
    """Report that no broker program is installed here."""
