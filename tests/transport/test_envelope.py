"""The bytes of a signed payload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_transport import MessageError, SigningKey
from hedgerow_transport.envelope import (
    ENVELOPE_BYTES,
    MAX_SEALED_BYTES,
    Envelope,
    is_sealed,
    open_envelope,
)

TOPIC = "hedgerow/1/farm/up/a/offer"
# The private key of RFC 8032, 7.1, test 1.
PEM = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
    b"-----END PRIVATE KEY-----\n"
)
KEY = SigningKey.from_pem(PEM)
ENVELOPE = Envelope(counter=0x0102030405060708, issued=0x11121314, expires=0x21222324, will=True)
SEALED = ENVELOPE.seal(b"message", topic=TOPIC, key=KEY)


def holds(payload: bytes, *, topic: str = TOPIC, key: bytes = KEY.public) -> bool:
    try:
        envelope, message = open_envelope(payload)
    except MessageError:
        return False
    return envelope.is_by(key, topic=topic, message=message)


def test_the_key_is_that_of_the_standard() -> None:
    assert KEY.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_bytes_are_those_of_the_specification() -> None:
    head = bytes.fromhex("c1 01 01 0102030405060708 11121314 21222324")
    assert SEALED[:19] == head
    assert SEALED[83:] == b"message"
    assert ENVELOPE_BYTES == 83
    topic = TOPIC.encode()
    signed = b"hedgerow signed message 1\0" + len(topic).to_bytes(2, "big") + topic + head + b"message"
    # Ed25519 is deterministic.
    assert SEALED[19:83] == KEY.sign(signed)


def test_what_is_sealed_is_opened() -> None:
    envelope, message = open_envelope(SEALED)
    assert (envelope.counter, envelope.issued, envelope.expires, envelope.will, message) == (
        ENVELOPE.counter,
        ENVELOPE.issued,
        ENVELOPE.expires,
        True,
        b"message",
    )
    assert holds(SEALED)


def test_it_holds_for_one_topic_and_one_key_only() -> None:
    for topic in (
        "hedgerow/1/farm/up/b/offer",
        "hedgerow/1/farm/up/a/decline",
        "hedgerow/1/barn/up/a/offer",
    ):
        assert not holds(SEALED, topic=topic)
    assert not holds(SEALED, key=SigningKey.generate().public)


def test_topic_and_message_cannot_run_into_each_other() -> None:
    # The same bytes one after the other, cut elsewhere.
    longer = Envelope(counter=1, issued=2).seal(b"bc", topic="a", key=KEY)
    envelope, message = open_envelope(longer)
    assert envelope.is_by(KEY.public, topic="a", message=message)
    assert not envelope.is_by(KEY.public, topic="ab", message=b"c")


def test_a_change_of_any_bit_is_found() -> None:
    for place in range(len(SEALED)):
        for bit in range(8):
            changed = bytearray(SEALED)
            changed[place] ^= 1 << bit
            assert not holds(bytes(changed)), (place, bit)


def test_every_cut_and_every_byte_more_is_found() -> None:
    assert not any(holds(SEALED[:length]) for length in range(len(SEALED)))
    assert not any(holds(SEALED + bytes([extra])) for extra in range(256))


@given(st.binary(max_size=300))
def test_random_bytes_never_hold(payload: bytes) -> None:
    assert not holds(payload)
    assert not holds(b"\xc1\x01\x00" + payload)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 2**64 - 1), st.booleans(), st.data())
def test_any_message_with_any_byte_changed_is_refused(
    message: bytes, counter: int, will: bool, data: st.DataObject
) -> None:
    sealed = bytearray(Envelope(counter=counter, issued=1, will=will).seal(message, topic=TOPIC, key=KEY))
    assert holds(bytes(sealed))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    assert not holds(bytes(sealed))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "0 bytes are no whole signed message"),
        (SEALED[:83], "83 bytes are no whole signed message"),
        (SEALED + bytes(MAX_SEALED_BYTES), "are no whole signed message"),
        (b"\xc1\x02" + SEALED[2:], "version 2 with flags 1 is not known here: update the older side"),
        (b"\xc1\x01\x03" + SEALED[3:], "version 1 with flags 3 is not known here"),
        (b"\x81" + SEALED[1:], "are no whole signed message"),
    ],
)
def test_what_is_none_is_named(payload: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        open_envelope(payload)


def test_the_first_byte_tells_it_from_msgpack() -> None:
    assert is_sealed(SEALED)
    assert not is_sealed(b"")
    # Maps, chunks (which begin with their version), text.
    assert not any(is_sealed(bytes([first, 0])) for first in range(256) if first != 0xC1)
