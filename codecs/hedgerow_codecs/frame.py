"""Frames: a payload with what it is, what it is for, and a checksum.

The bytes are those of SPEC.md, section 3.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.codec import Codec
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import (
    ChecksumError,
    ForeignFrameError,
    KindError,
    MismatchError,
    TruncatedFrameError,
)
from hedgerow_codecs.layout import DIGEST_BYTES, Layout
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.registry import CODECS, codec_number

NO_BASE = bytes(DIGEST_BYTES)
VERSION = 1

_MAGIC = b"HG"
_DIGESTS_START = 5
_CHECKSUM_BYTES = 4
_NO_CODEC = 0
_HASH_BLOCK = 1 << 18


class FrameKind(IntEnum):
    """What a frame carries."""

    UPDATE = 1
    MODEL_DELTA = 2
    KEYFRAME = 3
    MASK = 4
    MASK_DELTA = 5
    SEEDED = 6
    SCORES = 7


CODED_KINDS = frozenset({FrameKind.UPDATE, FrameKind.MODEL_DELTA, FrameKind.KEYFRAME, FrameKind.SCORES})
_SHORT_KINDS = frozenset({FrameKind.UPDATE, FrameKind.SCORES})


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a frame says about itself, without its payload being read.

    Small updates pay for each byte: in ``UPDATE`` and ``SCORES`` frames, `mask` and `base` are the first 4
    bytes of the digests and `layout` is empty. Compare with `is_for`, or ``digest.startswith(header.base)``.

    `codec` is the configuration of a codec that decodes the payload (empty for masks and seeds): payloads
    carry what their decoder needs, and nothing of what their encoder was told besides.
    """

    kind: FrameKind
    version: int
    layout: bytes
    mask: bytes
    base: bytes
    codec: Mapping[str, object]
    frame_bytes: int
    payload_bytes: int

    def is_for(self, *, mask: Mask, base: bytes) -> bool:
        """Tell whether the frame was made for this mask (and its layout) and base model."""
        return (
            mask.layout.digest.startswith(self.layout)
            and mask.digest.startswith(self.mask)
            and base.startswith(self.base)
        )


def encode_frame(
    values: NDArray[np.float32], *, kind: FrameKind, mask: Mask, base: bytes, codec: Codec
) -> bytes:
    """Encode a live vector as a frame.

    Parameters
    ----------
    values : ndarray, float32, shape (num_live,)
    kind : FrameKind
        ``UPDATE``, ``MODEL_DELTA``, ``KEYFRAME`` or ``SCORES``.
    mask : Mask
    base : bytes
        `model_digest` of the model that the values are relative to; `NO_BASE` for keyframes and scores.
    codec : Codec

    Raises
    ------
    KindError
        A kind that carries no codec's payload.
    UnencodableError
        Values that the codec does not take.
    """
    _check_coded(kind)
    return seal(codec.encode(values, mask=mask), kind=kind, codec=codec_number(codec), mask=mask, base=base)


def encode_frame_with_decoded(
    values: NDArray[np.float32], *, kind: FrameKind, mask: Mask, base: bytes, codec: Codec
) -> tuple[bytes, DecodedUpdate]:
    """Encode a live vector as a frame, and return what `decode_frame` makes of it, too.

    For error feedback, which needs what the receiver will have: the same bits, without decoding. Parameters
    and errors are those of `encode_frame`.
    """
    _check_coded(kind)
    payload, decoded = codec.encode_with_decoded(values, mask=mask)
    return seal(payload, kind=kind, codec=codec_number(codec), mask=mask, base=base), decoded


def _check_coded(kind: FrameKind) -> None:
    if kind not in CODED_KINDS:
        raise KindError(f"a frame of kind {kind.name} carries no values")


def decode_frame(frame: bytes, *, kind: FrameKind, mask: Mask, base: bytes) -> DecodedUpdate:
    """Check a frame and decode its payload.

    Raises
    ------
    FrameError
        The frame is damaged, of another kind, for another layout, mask or base, or its payload is
        malformed. Which it is, is in the class of the error.
    """
    header = read_header(frame)
    if kind not in CODED_KINDS or header.kind != kind:
        raise KindError(f"expected a frame of kind {kind.name}, got {header.kind.name}", offset=3)
    payload = unseal(frame, layout=mask.layout, mask=mask.digest, base=base)
    # Payloads say what their decoder needs: the default settings decode all.
    update: DecodedUpdate = CODECS[frame[4]]().decode(payload, mask=mask)
    return update


def read_header(frame: bytes) -> FrameHeader:
    """Read what a frame says about itself, and check its checksum, but not its payload.

    Raises
    ------
    ForeignFrameError
        Wrong magic, version, kind or codec.
    TruncatedFrameError
        Fewer bytes than a header and a checksum take.
    ChecksumError
        The bytes were damaged.
    """
    if frame[:2] != _MAGIC[: len(frame)]:
        raise ForeignFrameError(f"a frame starts with {_MAGIC!r}, this with {bytes(frame[:2])!r}", offset=0)
    if len(frame) < 5:
        raise TruncatedFrameError(f"a frame has more than {len(frame)} bytes")
    _, _, version, kind_number, codec_byte = frame[:5]
    if version != VERSION:
        raise ForeignFrameError(f"frame is of version {version}, this reads version {VERSION}", offset=2)
    if kind_number not in list(FrameKind):
        raise ForeignFrameError(f"there is no frame of kind {kind_number}", offset=3)
    kind = FrameKind(kind_number)
    if (codec_byte not in CODECS) if kind in CODED_KINDS else (codec_byte != _NO_CODEC):
        raise ForeignFrameError(f"a frame of kind {kind.name} has no codec {codec_byte}", offset=4)
    start = _payload_start(kind)
    payload_bytes = len(frame) - start - _CHECKSUM_BYTES
    if payload_bytes < 0:
        raise TruncatedFrameError(f"a frame of kind {kind.name} has more than {len(frame)} bytes")
    if zlib.crc32(memoryview(frame)[:-_CHECKSUM_BYTES]) != int.from_bytes(frame[-_CHECKSUM_BYTES:], "little"):
        raise ChecksumError(f"frame of {len(frame)} bytes was damaged or cut on the way")
    bounds = pairwise(accumulate(_digest_bytes(kind), initial=_DIGESTS_START))
    layout, mask, base = (bytes(frame[begin:end]) for begin, end in bounds)
    return FrameHeader(
        kind=kind,
        version=version,
        layout=layout,
        mask=mask,
        base=base,
        codec={} if codec_byte == _NO_CODEC else {"codec_id": CODECS[codec_byte].codec_id},
        frame_bytes=len(frame),
        payload_bytes=payload_bytes,
    )


def max_frame_bytes(layout: Layout) -> int:
    """Return a bound on the size of any frame for this layout, bytes; longer ones are refused.

    No codec writes more: float32 is the widest, and the entropy stages fall back before they grow beyond it.
    """
    return 1024 + 4 * len(layout.tensors) + 4 * layout.num_parameters + layout.num_parameters // 64


def max_decode_bytes(mask: Mask) -> int:
    """Return a bound on the memory that decoding any frame under this mask takes beyond the frame, bytes.

    For mask frames, the mask of the layout in which everything is live. The fixed part is tables, which do
    not grow with the model.
    """
    layout = mask.layout
    return (4 << 20) + 1024 * len(layout.tensors) + 8 * layout.num_parameters + 64 * mask.num_live


def model_digest(flat: NDArray[np.float32], *, mask: Mask) -> bytes:
    """Return the identity of a model: blake2b-128 of its live float32 bytes and the mask's digest.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        Hashed as little-endian IEEE bytes, in ascending flat position; pruned entries do not count.
    mask : Mask
    """
    live = mask.gather(flat).astype("<f4", copy=False)
    digest = blake2b(digest_size=DIGEST_BYTES)
    for start in range(0, live.size, _HASH_BLOCK):
        digest.update(live[start : start + _HASH_BLOCK].tobytes())
    digest.update(mask.digest)
    return digest.digest()


def seal(payload: bytes, *, kind: FrameKind, codec: int, mask: Mask, base: bytes) -> bytes:
    """Put a header before a payload and a checksum behind it."""
    if len(base) != DIGEST_BYTES:
        raise MismatchError(what="base", expected=NO_BASE, found=base)
    whole = (mask.layout.digest, mask.digest, base)
    digests = b"".join(digest[:size] for digest, size in zip(whole, _digest_bytes(kind), strict=True))
    body = b"".join([_MAGIC, bytes([VERSION, kind, codec]), digests, payload])
    return body + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")


def unseal(frame: bytes, *, layout: Layout, mask: bytes | None, base: bytes) -> bytes:
    """Return the payload of a frame whose digests are those expected; `mask` None is not compared."""
    header = read_header(frame)
    if len(frame) > max_frame_bytes(layout):
        raise TruncatedFrameError(
            f"frame has {len(frame)} bytes, for this layout at most {max_frame_bytes(layout)} are read"
        )
    wanted = (
        ("layout", layout.digest, header.layout),
        ("mask", mask, header.mask),
        ("base", base, header.base),
    )
    for what, expected, found in wanted:
        if expected is not None and not expected.startswith(found):
            raise MismatchError(what=what, expected=expected, found=found)
    return frame[_payload_start(header.kind) : -_CHECKSUM_BYTES]


def _digest_bytes(kind: FrameKind) -> tuple[int, int, int]:
    """Return the bytes that layout, mask and base digest take; a mask digest stands for its layout, too."""
    return (0, 4, 4) if kind in _SHORT_KINDS else (DIGEST_BYTES, DIGEST_BYTES, DIGEST_BYTES)


def _payload_start(kind: FrameKind) -> int:
    return _DIGESTS_START + sum(_digest_bytes(kind))
