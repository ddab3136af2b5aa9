"""Hostile bytes for the transport: messages, chunks and topics from anybody.

The first byte of an input chooses the decoder, the rest is what came over the wire.
"""

from __future__ import annotations

import zlib

from hedgerow_transport import (
    Accept,
    Ack,
    BlobRef,
    CoordinatorState,
    Decline,
    DeviceState,
    Manifest,
    Message,
    MessageError,
    Need,
    Offer,
    Presence,
    Rebirth,
    RoundPlan,
    Route,
    Sync,
    decode_chunk,
    decode_down,
    decode_message,
    encode_chunk,
    encode_cohort,
    parse_topic,
)

_DIGEST = bytes(range(16))
_UPDATE = BlobRef(kind="update", digest=_DIGEST, size=5000)
MESSAGES: tuple[Message, ...] = (
    Manifest(
        run="run-1",
        state="round",
        round=3,
        attempt=1,
        version=2,
        layout=_DIGEST,
        mask=_DIGEST,
        model=_DIGEST,
        plan=BlobRef(kind="plan", digest=_DIGEST, size=90),
        steps=(_UPDATE,),
        base_version=1,
        cohort=encode_cohort(["pi-1", "pi-2"]),
        deadline_s=30.0,
    ),
    RoundPlan(
        seed=7,
        epochs=1,
        batch_size=64,
        learning_rate=0.01,
        codec={"codec_id": "deadzone", "step": 0.5, "stages": ["rans", {"lanes": 4}], "x": None, "y": True},
        max_seconds=60.0,
    ),
    Sync(version=-1, model=_DIGEST),
    Route(version=4, steps=(_UPDATE, _UPDATE), base_version=-1),
    Need(digest=_DIGEST, bitmap=b"\x05"),
    Offer(run="run-1", round=3, update=_UPDATE, num_samples=10, metrics={"loss": 0.5}, train_s=1.5),
    Accept(run="run-1", round=3, digest=_DIGEST, have=b"\x01"),
    Ack(run="run-1", round=3, digest=_DIGEST, status="late", reason="the round is over"),
    Decline(run="run-1", round=3, reason="too warm"),
    Presence(client="pi-1", session=4, online=True, profile={"ram_mib": 4096, "model": "Pi 4", "b": None}),
    CoordinatorState(run="run-1", session=2, online=False, message="stopped"),
    DeviceState(session=4, state="paused", round=3, at=1_800_000_000, reason="too warm"),
    Rebirth(),
)
DOWN, CHUNK, TOPIC = range(len(MESSAGES), len(MESSAGES) + 3)


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
        message = decode_down(rest) if choice == DOWN else decode_message(rest, type(MESSAGES[choice]))
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
