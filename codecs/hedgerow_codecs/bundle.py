"""Two frames as one blob: an update, and what a device answers besides (scores, or a mask)."""

from __future__ import annotations

from hedgerow_codecs.errors import TruncatedFrameError

_LENGTH_BYTES = 4


def bundle(update: bytes, answer: bytes) -> bytes:
    """Return an update frame, another frame (or nothing), and the length of that, u32 little-endian.

    >>> bundle(b"update", b"scores")[-4:]
    b'\\x06\\x00\\x00\\x00'
    """
    return update + answer + len(answer).to_bytes(_LENGTH_BYTES, "little")


def unbundle(data: bytes) -> tuple[bytes, bytes]:
    """Cut what `bundle` has made. The frames themselves are not looked at.

    Raises
    ------
    TruncatedFrameError
        The length at the end is more than there is.

    Examples
    --------
    >>> unbundle(bundle(b"update", b"scores"))
    (b'update', b'scores')
    """
    end = len(data) - _LENGTH_BYTES
    size = int.from_bytes(data[max(end, 0) :], "little")
    if end < 0 or size > end:
        raise TruncatedFrameError(f"a bundle of {len(data)} bytes cannot hold a second frame of {size}")
    return data[: end - size], data[end - size : end]
