"""Hostile bytes for the transport: messages, chunks and topics from anybody.

The first byte of an input chooses the decoder, the rest is what came over the wire.
"""

from __future__ import annotations

import zlib

from message_samples import SAMPLES

from hedgerow_transport import (
    MessageError,
    decode_chunk,
    decode_down,
    decode_message,
    encode_chunk,
    parse_topic,
)

DOWN, CHUNK, TOPIC = range(len(SAMPLES), len(SAMPLES) + 3)


class Finding(Exception):
    """Something that must not happen, happened."""


def attempt(data: bytes) -> str:
    """Decode what an input stands for; say what became of it: "refused", "message", "chunk" or "topic".

    Raises
    ------
    Finding
        Something decoded that does not survive being encoded and decoded again.
    Exception
        Whatever the decoder raises but `MessageError`.
    """
    if not data:
        return "refused"
    choice, rest = data[0] % (TOPIC + 1), data[1:]
    try:
        if choice == CHUNK:
            return _check_chunk(rest)
        if choice == TOPIC:
            parsed = parse_topic(rest.decode("utf-8", errors="surrogateescape"))
            return "topic" if parsed else "refused"
        message = decode_down(rest) if choice == DOWN else decode_message(rest, type(SAMPLES[choice]))
    except MessageError:
        return "refused"
    try:
        payload = message.encode()
    except MessageError as error:
        # Numbers are brought to one form: a short integer may become a longer float.
        if "needs" not in str(error):
            raise
        return "message"
    if decode_message(payload, type(message)) != message:
        raise Finding(f"{message!r} does not survive being encoded again")
    return "message"


def _check_chunk(payload: bytes) -> str:
    """Decode a chunk as it is, then with a checksum that fits."""
    fits = payload[:5] + zlib.crc32(payload[9:], zlib.crc32(payload[:5])).to_bytes(4, "big") + payload[9:]
    index, data = decode_chunk(fits)
    if encode_chunk(index, data) != fits:
        raise Finding(f"chunk {index} does not survive being encoded again")
    decode_chunk(payload)
    return "chunk"
