"""Kinds of message fields: each checks a value, brings it to its one form, and knows its plain form."""

from __future__ import annotations

import math
import numbers
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hedgerow_transport.errors import MessageError
from hedgerow_transport.packing import check_plain

Scalar = str | int | float | bool | None

MAX_COUNT = 2**31 - 1
MAX_TOTAL = 2**53


class FieldKind(Protocol):
    """What a field may hold."""

    def check(self, value: Any) -> Any:
        """Return the value in its one form, or raise `MessageError`."""

    def to_plain(self, value: Any) -> Any:
        """Turn a checked value into plain data."""

    def from_plain(self, value: Any) -> Any:
        """Turn plain data from the wire into a value that `check` can judge, or raise `MessageError`."""


class _Direct:
    """A kind whose values are plain data already."""

    __slots__ = ()

    def to_plain(self, value: Any) -> Any:
        return value

    def from_plain(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Integer(_Direct):
    """An integer from `low` to `high`, both inclusive."""

    low: int = 0
    high: int = MAX_COUNT

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise wrong_type("an integer", value)
        number = int(value)
        if not self.low <= number <= self.high:
            raise wrong_type(f"an integer from {self.low} to {self.high}", value)
        return number


@dataclass(frozen=True, slots=True)
class Real(_Direct):
    """A finite number from `low` to `high`, both inclusive."""

    low: float
    high: float

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise wrong_type("a number", value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not self.low <= number <= self.high:  # NaN fails this, too
            raise wrong_type(f"a finite number from {self.low:g} to {self.high:g}", value)
        return number


@dataclass(frozen=True, slots=True)
class Flag(_Direct):
    """A truth value."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong_type("true or false", value)
        return value


@dataclass(frozen=True, slots=True)
class Name(_Direct):
    """Text that matches a pattern as a whole."""

    pattern: str

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(self.pattern, value) is None:
            raise wrong_type(f"text like {self.pattern}", value)
        return value


@dataclass(frozen=True, slots=True)
class Sentence(_Direct):
    """Free text for a person: control characters become spaces, and what is over `max_bytes` is cut.

    Cut instead of refused, so that a long reason never prevents the message that carries it; without control
    characters, so that a peer cannot steer the terminal on which it is printed.
    """

    max_bytes: int

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong_type("text", value)
        printable = "".join(char if char.isprintable() else " " for char in value[: self.max_bytes + 1])
        encoded = printable.encode("utf-8", errors="replace")
        if len(encoded) <= self.max_bytes and len(value) <= self.max_bytes:
            return encoded.decode()
        cut = encoded[: max(0, self.max_bytes - len("…".encode()))]
        return cut.decode("utf-8", errors="ignore") + "…"


@dataclass(frozen=True, slots=True)
class Octets(_Direct):
    """Bytes, `min_bytes` to `max_bytes` of them, in a multiple of `unit`."""

    min_bytes: int
    max_bytes: int
    unit: int = 1

    def check(self, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise wrong_type("bytes", value)
        octets = bytes(value)
        if not self.min_bytes <= len(octets) <= self.max_bytes or len(octets) % self.unit:
            size = f"{self.min_bytes} to {self.max_bytes} bytes" if self.min_bytes < self.max_bytes else ""
            expected = size or f"{self.min_bytes} bytes"
            raise MessageError(
                f"must have {expected}{f' in steps of {self.unit}' * (self.unit > 1)}, has {len(octets)}"
            )
        return octets


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; on the wire, its index. New words are only ever added at the end."""

    words: tuple[str, ...]

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise wrong_type(f"one of {', '.join(self.words)}", value)
        return value

    def to_plain(self, value: Any) -> int:
        return self.words.index(value)

    def from_plain(self, value: Any) -> str:
        return self.words[Integer(0, len(self.words) - 1).check(value)]


@dataclass(frozen=True, slots=True)
class Numbers(_Direct):
    """A map from short names to finite numbers."""

    max_entries: int

    def check(self, value: Any) -> dict[str, float]:
        entries = _check_entries(value, max_entries=self.max_entries)
        number = Real(-math.inf, math.inf)
        checked = {key: number.check(item) for key, item in entries.items()}
        check_plain(checked, max_depth=1)
        return checked


@dataclass(frozen=True, slots=True)
class Scalars(_Direct):
    """A map from short names to JSON scalars."""

    max_entries: int
    max_text_bytes: int = 128

    def check(self, value: Any) -> dict[str, Scalar]:
        return {
            key: self._scalar(item)
            for key, item in _check_entries(value, max_entries=self.max_entries).items()
        }

    def _scalar(self, value: Any) -> Scalar:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return Sentence(self.max_text_bytes).check(value)
        if isinstance(value, numbers.Integral):
            return Integer(-MAX_TOTAL, MAX_TOTAL).check(value)
        number = Real(-math.inf, math.inf).check(value)
        check_plain(number, max_depth=0)
        return number


@dataclass(frozen=True, slots=True)
class Config(_Direct):
    """A JSON object with text keys, at most `max_depth` containers deep."""

    max_depth: int = 4
    max_entries: int = 64

    def check(self, value: Any) -> dict[str, Any]:
        check_plain(value, max_depth=self.max_depth)
        if not isinstance(value, Mapping):
            raise wrong_type("a map", value)
        checked = self._json(value)
        assert isinstance(checked, dict)
        return checked

    def _json(self, value: Any) -> Any:
        if isinstance(value, bytes):
            raise MessageError("holds bytes, which JSON has not")
        if isinstance(value, Mapping):
            entries = _check_entries(value, max_entries=self.max_entries)
            return {key: self._json(item) for key, item in entries.items()}
        if isinstance(value, (list, tuple)):
            if len(value) > self.max_entries:
                raise MessageError(f"holds a list of {len(value)}, at most {self.max_entries} are allowed")
            return [self._json(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return Integer(-MAX_TOTAL, MAX_TOTAL).check(value)
        if isinstance(value, str):
            return _check_text(value, max_bytes=1024)
        return value


def wrong_type(expected: str, value: object) -> MessageError:
    """Make the error that says what was expected and shows the start of what came."""
    return MessageError(f"must be {expected}, got {reprlib.repr(value)}")


def check_sequence(value: object, *, max_entries: int) -> Sequence[Any]:
    """Check that a value is a list or tuple of at most `max_entries`."""
    if not isinstance(value, (list, tuple)):
        raise wrong_type("a list", value)
    if len(value) > max_entries:
        raise MessageError(f"has {len(value)} entries, at most {max_entries} are allowed")
    return value


def _check_entries(value: object, *, max_entries: int) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong_type("a map", value)
    if len(value) > max_entries:
        raise MessageError(f"has {len(value)} entries, at most {max_entries} are allowed")
    for key in value:
        if not isinstance(key, str) or not key.isprintable():
            raise wrong_type("a map with printable text keys", key)
        _check_text(key, max_bytes=64)
    return value


def _check_text(text: str, *, max_bytes: int) -> str:
    try:
        num_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise wrong_type("text that UTF-8 can hold", text) from error
    if num_bytes > max_bytes:
        raise MessageError(f"holds a text of {num_bytes} bytes, at most {max_bytes} are allowed")
    return text
