"""Errors of the codecs.

::

    CodecError                  anything that goes wrong in this package
    ├── LayoutError             a layout, or parameters that do not fit it  (caller, or peer)
    ├── MaskError               a mask that breaks its layout's rules  (caller)
    ├── ConfigError             a codec configuration that names nothing we know  (user)
    ├── UnencodableError        values that no frame can carry: NaN, infinity, shape  (caller)
    └── FrameError              bytes that are not the frame we were promised  (peer, or the link)
        ├── ForeignFrameError   wrong magic, or a version we do not read
        ├── TruncatedFrameError too short, or too long
        ├── ChecksumError       damaged on the way
        ├── KindError           a frame of another kind than asked for
        ├── MismatchError       made for another layout, mask or base model
        └── PayloadError        intact, but its content contradicts itself or the mask
"""

from __future__ import annotations


class CodecError(Exception):
    """Root of every error raised by `hedgerow_codecs`."""


class LayoutError(CodecError):
    """A layout is not valid, or parameters do not fit it.

    Attributes
    ----------
    tensor : str | None
        Name of the tensor at fault, where there is one.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class MaskError(CodecError):
    """A mask breaks the rules of its layout.

    Attributes
    ----------
    tensor : str | None
        Name of the tensor at fault, where there is one.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class ConfigError(CodecError):
    """A codec configuration has an unknown id, an unknown key or a value out of range.

    Attributes
    ----------
    key : str
        The key at fault.
    nearest : str | None
        The known spelling closest to it, where one is close.
    """

    def __init__(self, message: str, *, key: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.nearest = nearest


class UnencodableError(CodecError):
    """Values cannot be encoded: not finite, or not one per live parameter.

    Attributes
    ----------
    tensor : str | None
        Name of the first tensor at fault, where there is one.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class FrameError(CodecError):
    """Bytes are not the frame that was asked for.

    Attributes
    ----------
    offset : int | None
        Byte of the frame (or payload) where reading stopped, where it is known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (byte {offset})")
        self.offset = offset


class ForeignFrameError(FrameError):
    """The bytes do not start like a frame, or are of a version this package does not read."""


class TruncatedFrameError(FrameError):
    """The bytes end too early, or go on where they must end."""


class ChecksumError(FrameError):
    """The frame was damaged between its writer and here."""


class KindError(FrameError):
    """The frame is sound but of another kind than the one asked for."""


class MismatchError(FrameError):
    """The frame was made for another layout, mask or base model.

    Attributes
    ----------
    what : str
        ``"layout"``, ``"mask"`` or ``"base"``.
    expected, found : bytes
        The digest that was asked for, and the digest (or its first bytes) in the frame.
    """

    def __init__(self, *, what: str, expected: bytes, found: bytes) -> None:
        super().__init__(f"frame was made for {what} {found.hex()}, expected {expected.hex()}")
        self.what = what
        self.expected = expected
        self.found = found


class PayloadError(FrameError):
    """The payload contradicts itself, or the mask it claims to be for."""
