"""A signed payload: a header, a signature over topic, header and message, and the message."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hedgerow_transport.errors import MessageError
from hedgerow_transport.signing import SIGNATURE_BYTES, SigningKey, verifies

# The one byte that msgpack never uses: old and unsigned peers refuse it at once.
MARKER = 0xC1
ENVELOPE_VERSION = 1
_WILL = 1
_HEADER = struct.Struct(">BBBQII")
_CONTEXT = b"hedgerow signed message 1\0"
_LENGTH = struct.Struct(">H")
ENVELOPE_BYTES = _HEADER.size + SIGNATURE_BYTES
MAX_TIME = 2**32 - 1
# Above every message that is signed; more is not worth the time that a signature takes.
MAX_SEALED_BYTES = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What is signed beside the message.

    Parameters
    ----------
    counter : int
        0 to 2**64 - 1.
    issued, expires : int
        Unix times by the sender's clock; `expires` 0 is never.
    will : bool
        Whether it was signed as a last will, to be published later.
    """

    counter: int
    issued: int
    expires: int = 0
    will: bool = False
    signature: bytes = field(default=b"", repr=False)

    def seal(self, message: bytes, *, topic: str, key: SigningKey) -> bytes:
        """Return the signed payload."""
        header = self._header()
        return b"".join((header, key.sign(_signed(topic, header, message)), message))

    def is_by(self, public: bytes, *, topic: str, message: bytes) -> bool:
        """Say whether the signature is that of a public key, over this topic and message."""
        data = _signed(topic, self._header(), message)
        return verifies(public, signature=self.signature, data=data)

    def _header(self) -> bytes:
        return _HEADER.pack(
            MARKER, ENVELOPE_VERSION, _WILL * self.will, self.counter, self.issued, self.expires
        )


def is_sealed(payload: bytes) -> bool:
    """Say whether a payload is a signed one."""
    return payload[:1] == bytes([MARKER])


def open_envelope(payload: bytes) -> tuple[Envelope, bytes]:
    """Return envelope and message of a signed payload; the signature is not checked.

    Raises
    ------
    MessageError
        When it is cut off, too long, or of another version.
    """
    if not is_sealed(payload) or not ENVELOPE_BYTES < len(payload) <= MAX_SEALED_BYTES:
        raise MessageError(f"{len(payload)} bytes are no whole signed message", message="envelope")
    _, version, flags, counter, issued, expires = _HEADER.unpack_from(payload)
    if version != ENVELOPE_VERSION or flags & ~_WILL:
        raise MessageError(
            f"version {version} with flags {flags} is not known here: update the older side",
            message="envelope",
        )
    signature = payload[_HEADER.size : ENVELOPE_BYTES]
    envelope = Envelope(
        counter=counter, issued=issued, expires=expires, will=bool(flags & _WILL), signature=signature
    )
    return envelope, payload[ENVELOPE_BYTES:]


def open_unchecked(payload: bytes) -> tuple[bytes, bool]:
    """Return the message in a payload, and whether it claims to be signed: for whoever has no key.

    Raises
    ------
    MessageError
        As `open_envelope`.
    """
    return (open_envelope(payload)[1], True) if is_sealed(payload) else (payload, False)


def _signed(topic: str, header: bytes, message: bytes) -> bytes:
    name = topic.encode()
    return b"".join((_CONTEXT, _LENGTH.pack(len(name)), name, header, message))
