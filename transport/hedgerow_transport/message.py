"""What all messages share: fields with kinds, one version, a tag, and a bounded way out of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Self, TypeVar

from hedgerow_transport.errors import MessageError
from hedgerow_transport.fields import FieldKind
from hedgerow_transport.packing import pack_map, unpack_map

MESSAGE_VERSION = 1
_VERSION_KEY = "v"
_TAG_KEY = "t"


def on_wire(key: str, kind: FieldKind) -> dict[str, Any]:
    """Describe a field: its short key on the wire, and what it may hold. For ``field(metadata=...)``."""
    return {"key": key, "kind": kind}


class Record:
    """A value whose fields are checked, and brought to one form, when it is made."""

    # A base class and not a decorator, so that type checkers see the methods of every message.
    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for entry in fields(self):
            kind: FieldKind = entry.metadata["kind"]
            try:
                value = kind.check(getattr(self, entry.name))
            except MessageError as error:
                raise MessageError(str(error), message=type(self).__name__, field=entry.name) from error
            object.__setattr__(self, entry.name, value)


class Message(Record):
    """A record that travels as one payload: a msgpack map with short keys, a version and a tag."""

    __slots__ = ()
    TAG: ClassVar[int]
    MAX_BYTES: ClassVar[int]

    def encode(self) -> bytes:
        """Return the payload.

        Raises
        ------
        MessageError
            When it is longer than ``MAX_BYTES`` of its type.
        """
        plain: dict[str, Any] = {_VERSION_KEY: MESSAGE_VERSION, _TAG_KEY: self.TAG}
        for entry in fields(self):
            plain[entry.metadata["key"]] = entry.metadata["kind"].to_plain(getattr(self, entry.name))
        payload = pack_map(plain)
        if len(payload) > self.MAX_BYTES:
            raise MessageError(
                f"needs {len(payload)} bytes, at most {self.MAX_BYTES} are allowed",
                message=type(self).__name__,
            )
        return payload

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the message in a payload; see `decode_message`."""
        return decode_message(data, cls)


M = TypeVar("M", bound=Message)


def decode_message(data: bytes, expected: type[M]) -> M:
    """Decode a payload that must hold a message of one type.

    Parameters
    ----------
    data : bytes
        A payload from anybody.
    expected : type
        The message type that belongs on the topic.

    Returns
    -------
    Message
        A checked value. Fields that this version does not know are ignored.

    Raises
    ------
    MessageError
        For everything else: too long, not msgpack, a version that is not known here, another message type, a
        field that is missing or wrong.
    """
    return _from_plain(_unpack(data, max_bytes=expected.MAX_BYTES, name=expected.__name__), expected)


def decode_one_of(data: bytes, expected: tuple[type[M], ...]) -> M:
    """Decode a payload that may hold one of several message types, told apart by their tags.

    Raises
    ------
    MessageError
        As `decode_message`.
    """
    names = " or ".join(kind.__name__ for kind in expected)
    plain = _unpack(data, max_bytes=max(kind.MAX_BYTES for kind in expected), name=names)
    for kind in expected:
        if plain.get(_TAG_KEY) == kind.TAG and len(data) <= kind.MAX_BYTES:
            return _from_plain(plain, kind)
    raise MessageError(
        f"has the tag {plain.get(_TAG_KEY)!r} or a length that none of them has", message=names
    )


def _unpack(data: bytes, *, max_bytes: int, name: str) -> dict[str, Any]:
    try:
        plain = unpack_map(data, max_bytes=max_bytes)
    except MessageError as error:
        raise MessageError(str(error), message=name) from error
    version = plain.get(_VERSION_KEY)
    if type(version) is not int or version != MESSAGE_VERSION:
        raise MessageError(
            f"version {str(version)[:20]} is not known here, only {MESSAGE_VERSION}: update the older side",
            message=name,
            field="version",
        )
    return plain


def _from_plain(plain: Mapping[str, Any], expected: type[M]) -> M:
    name = expected.__name__
    tag = plain.get(_TAG_KEY)
    if type(tag) is not int or tag != expected.TAG:
        raise MessageError(
            f"must be {expected.TAG}, got {str(tag)[:20]}: another message", message=name, field="tag"
        )
    values: dict[str, Any] = {}
    for entry in fields(expected):
        key = entry.metadata["key"]
        if key in plain:
            try:
                values[entry.name] = entry.metadata["kind"].from_plain(plain[key])
            except MessageError as error:
                raise MessageError(str(error), message=name, field=entry.name) from error
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise MessageError("is missing", message=name, field=entry.name)
    return expected(**values)
