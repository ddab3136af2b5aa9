"""Frames, messages and chunks: what travels between coordinator and devices."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hedgerow.errors import UsageError
from hedgerow.inspection.description import Description, Fact, digest_fact, size_fact
from hedgerow_codecs import CodecError, FrameHeader, FrameKind, read_header, unbundle
from hedgerow_transport import CHUNK_HEADER_BYTES, MESSAGE_TYPES, BlobRef, MessageError, count, decode_chunk

_FRAMES = {
    FrameKind.UPDATE: "a client's update",
    FrameKind.MODEL_DELTA: "a model's step from one version to the next",
    FrameKind.KEYFRAME: "a whole model (keyframe)",
    FrameKind.MASK: "a whole mask",
    FrameKind.MASK_DELTA: "a mask's difference from the one before",
    FrameKind.SEEDED: "a first model, as its seed",
    FrameKind.SCORES: "importance scores",
}
# Of a seeded frame (SPEC.md): the seed, the model's digest, the frame's checksum.
_SEED_BYTES, _SEED_FROM_END = 8, 8 + 16 + 4


def describe_frame(data: bytes) -> Description:
    """Describe a frame, or an update with a second frame behind it, by headers; checksums are checked."""
    try:
        header = read_header(data)
    except CodecError as error:
        two = _two_frames(data)
        if two is None:
            raise UsageError(f"is a frame, but a damaged one: {error}") from error
        return two
    facts = [size_fact(header.frame_bytes), size_fact(header.payload_bytes, name="payload")]
    if header.codec:
        facts.append(Fact(name="codec", value=dict(header.codec), text=str(header.codec["codec_id"])))
    if header.kind == FrameKind.SEEDED:
        start = len(data) - _SEED_FROM_END
        facts.append(Fact(name="seed", value=int.from_bytes(data[start : start + _SEED_BYTES], "little")))
    facts += [
        digest_fact(name, digest)
        for name, digest in (("layout", header.layout), ("mask", header.mask), ("base", header.base))
        if digest
    ]
    facts.append(Fact(name="checksum", value=True, text="right"))
    return Description(
        what=f"{_FRAMES[header.kind]}: frame {header.kind.name}, version {header.version}",
        facts=tuple(facts),
        notes=_frame_notes(header),
    )


def _two_frames(data: bytes) -> Description | None:
    """Describe what a device sends in rounds with a question; None where these are not two whole frames."""
    try:
        update, answer = unbundle(data)
        for frame in filter(None, (update, answer)):
            read_header(frame)
    except CodecError:
        return None
    first = describe_frame(update)
    if not answer:
        return replace(first, what=f"{first.what}; room for a second frame behind it, which is empty")
    second = describe_frame(answer)
    behind = tuple(replace(fact, name=f"second_{fact.name}") for fact in second.facts)
    return Description(
        what=f"two frames. {first.what}; behind it, {second.what}",
        facts=(*first.facts, *behind),
        notes=tuple(dict.fromkeys(first.notes + second.notes)),
    )


def describe_message(data: bytes) -> Description:
    """Describe a message of the transport.

    Raises
    ------
    UsageError
        It is none, or one with a fault, which the sentence names.
    """
    fault = "is a msgpack map, but no message that this version knows"
    for kind in MESSAGE_TYPES:
        try:
            message = kind.decode(data)
        except MessageError as error:
            # Every other type refuses the tag; the one that takes it says what else is wrong.
            if error.field != "tag" and len(data) <= kind.MAX_BYTES:
                fault = f"is a msgpack map, but not a whole message: {error}"
            continue
        facts = tuple(_message_fact(entry.name, getattr(message, entry.name)) for entry in fields(message))
        return Description(what=f"a message: {kind.__name__}", facts=(size_fact(len(data)), *facts))
    raise UsageError(fault)


def describe_chunk(data: bytes) -> Description | None:
    """Describe one chunk of a blob; None when the bytes are none, or a damaged one, which cannot be told."""
    try:
        index, content = decode_chunk(data)
    except MessageError:
        return None
    return Description(
        what="one chunk of a blob",
        facts=(
            Fact(name="index", value=index),
            size_fact(len(content), name="data"),
            size_fact(CHUNK_HEADER_BYTES, name="header"),
        ),
        notes=("What the blob is can be told once all of its chunks are together.",),
    )


def _frame_notes(header: FrameHeader) -> tuple[str, ...]:
    if header.kind in (FrameKind.UPDATE, FrameKind.SCORES, FrameKind.MODEL_DELTA, FrameKind.KEYFRAME):
        return ("Its values can be decoded only with the mask that it names; this shows the header.",)
    if header.kind in (FrameKind.MASK, FrameKind.MASK_DELTA):
        return ("Its density can be told only with the layout that it names; this shows the header.",)
    return ()


def _message_fact(name: str, value: Any) -> Fact:
    if isinstance(value, BlobRef):
        return Fact(name=name, value=_blob_json(value), text=_blob_text(value))
    if isinstance(value, tuple):
        blobs = [blob for blob in value if isinstance(blob, BlobRef)]
        text = ", ".join(map(_blob_text, blobs)) or "none"
        return Fact(name=name, value=[_blob_json(blob) for blob in blobs], text=text)
    if isinstance(value, bytes) and name == "cohort":
        text = f"{len(value) // 4} clients" if value else "everybody"
        return Fact(name=name, value=value.hex(), text=text)
    if isinstance(value, bytes) and name in ("bitmap", "have"):
        return Fact(name=name, value=value.hex(), text=f"{count(value)} chunks")
    if isinstance(value, bytes):
        return digest_fact(name, value)
    if hasattr(value, "items"):
        text = ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
        return Fact(name=name, value=dict(value), text=text)
    return Fact(name=name, value=value, text="" if value != "" else "none")


def _blob_json(blob: BlobRef) -> dict[str, object]:
    return {"kind": blob.kind, "digest": blob.digest.hex(), "size": blob.size}


def _blob_text(blob: BlobRef) -> str:
    return f"{blob.kind} {blob.digest.hex()[:8]}… ({blob.size:,} bytes)"
