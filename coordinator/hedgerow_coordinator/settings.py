"""Strict settings: frozen dataclasses read from TOML, with errors that name the file, the line and the key.

A settings class is a dataclass whose fields are `str`, `int`, `float`, `bool`, one of these `| None`,
`tuple[str, ...]`, `Mapping[str, object]` (a table of JSON values, passed on unread) or another such class (a
table). It checks its own values in ``__post_init__`` with `check_range`, `check_choice` and `check_pattern`.
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from hedgerow_coordinator.errors import PlanError, SettingError

MAX_SETTINGS_BYTES = 1 << 20
_Settings = TypeVar("_Settings")
# What runs, namespaces, clients and metrics are called: safe in a topic and in a file name.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
NAME_RULE = "1 to 32 of a-z, 0-9, _ and -, beginning with a letter or a digit"
# Metadata of a field that is no key of the file.
NOT_A_KEY: Mapping[str, object] = {"key": False}
_DEPTH_LIMIT = 16
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def check_range(
    key: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise `SettingError` unless `value` is finite and inside the bounds that are given."""
    words = {"at least": least, "more than": above, "at most": most, "less than": below}
    rule = " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not inside:
        raise SettingError(f"must be {rule or 'a finite number'}, not {value}", key=key)


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise `SettingError` unless `value` is one of `choices`; the message lists them."""
    known = sorted(choices)
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {_shown(close[0])}?" if close else ""
        raise SettingError(
            f"must be one of {', '.join(map(_shown, known))}, not {_shown(value)}{hint}", key=key
        )


def check_pattern(key: str, value: str, pattern: re.Pattern[str], *, rule: str) -> None:
    """Raise `SettingError` unless the whole of `value` matches `pattern`; `rule` says it in words."""
    if not pattern.fullmatch(value):
        raise SettingError(f"must be {rule}, not {_shown(value)}", key=key)


def read_settings_file(path: Path) -> bytes:
    """Read a settings file once.

    Raises
    ------
    PlanError
        When it is missing, cannot be read or is larger than `MAX_SETTINGS_BYTES`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        raise PlanError("there is no such file", source=str(path)) from None
    except OSError as error:
        raise PlanError(f"cannot be read: {error.strerror or error}", source=str(path)) from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise PlanError(
            f"is larger than {MAX_SETTINGS_BYTES} bytes, which no plan needs to be", source=str(path)
        )
    return data


def parse_settings(cls: type[_Settings], data: bytes, *, source: str) -> _Settings:
    """Read `cls` from the bytes of a TOML file; `source` names the file in errors.

    Raises
    ------
    PlanError
        With file, line, table and key, for bad TOML, an unknown key, a wrong type or a value against a rule.
    """
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PlanError("is not UTF-8 text", source=source, line=line) from None
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise PlanError("is nested too deeply", source=source) from None
    except ValueError as error:
        found = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        sentence = str(error)[: found.start()] if found else str(error).removesuffix(" (at end of document)")
        line = int(found.group(1)) if found else text.count("\n") + 1
        raise PlanError(f"not valid TOML: {sentence}", source=source, line=line) from None
    try:
        return read_table(cls, table)
    except PlanError as error:
        line_of = _line_of(text, table=error.table, key=error.key)
        raise type(error)(
            error.sentence, source=source, line=line_of, table=error.table, key=error.key
        ) from None


def read_table(cls: type[_Settings], table: Mapping[str, object], *, name: str = "") -> _Settings:
    """Build `cls` from a parsed table; `name` is the dotted name of the table, for errors."""
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(typing.cast(typing.Any, cls)) if f.metadata.get("key", True)]
    known = [field.name for field in fields]
    for key in table:
        if key not in known:
            what = "table" if not name and isinstance(table[key], dict) else "key"
            raise PlanError(f"is not a known {what}{_nearest(key, known)}", table=name, key=key)
    values = {key: _converted(hints[key], value, table=name, key=key) for key, value in table.items()}
    for field in fields:
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise PlanError("is missing", table=name, key=field.name)
    try:
        return cls(**values)
    except SettingError as error:
        raise SettingError(error.sentence, table=error.table or name, key=error.key) from None


def write_tables(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Write tables as TOML; a value that is None is left out, which is how TOML says it."""
    lines: list[str] = []
    for name, table in tables.items():
        _write_table(lines, name, table)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write_table(lines: list[str], name: str, table: Mapping[str, object]) -> None:
    scalars = {
        key: value for key, value in table.items() if value is not None and not isinstance(value, dict)
    }
    if scalars or not table:
        lines += [
            "",
            f"[{name}]",
            *(f"{_written_key(key)} = {_written(value)}" for key, value in scalars.items()),
        ]
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(lines, f"{name}.{_written_key(key)}", value)


def _written_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _written(key)


def _written(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written_key(key)} = {_written(item)}' for key, item in value.items())}}}"
    # JSON's text, numbers and booleans are TOML's too, but for DEL and the exponent's missing point.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _converted(kind: object, value: object, *, table: str, key: str) -> object:
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        inner = f"{table}.{key}" if table else key
        if not isinstance(value, dict):
            raise PlanError(f"must be a table, not {_described(value)}", table=inner)
        return read_table(kind, value, name=inner)
    if typing.get_origin(kind) is Mapping:
        inner = f"{table}.{key}"
        if not isinstance(value, dict):
            raise PlanError(f"must be a table, not {_described(value)}", table=inner)
        _check_json(value, table=inner, depth=0)
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            found = "a list with something else in it" if isinstance(value, list) else _described(value)
            raise PlanError(f"must be a list of texts, not {found}", table=table, key=key)
        return tuple(value)
    if type(value) is int and abs(value) >= 1 << 63:
        raise PlanError("is too large a number", table=table, key=key)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        expected = _KINDS[typing.cast(type, kind)]
        raise PlanError(f"must be {expected}, not {_described(value)}", table=table, key=key)
    return value


def _check_json(value: object, *, table: str, depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise PlanError("is nested too deeply", table=table)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, (dict, list)) and not _is_json_scalar(item):
                raise PlanError(
                    f"must be text, a finite number, true or false, not {_described(item)}",
                    table=table,
                    key=key,
                )
            _check_json(item, table=table, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, table=table, depth=depth + 1)
    elif not _is_json_scalar(value):
        raise PlanError(f"holds {_described(value)}, which JSON cannot carry", table=table)


def _is_json_scalar(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _described(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {_shown(value)}"
    if isinstance(value, (int, float)):
        return "a number that is too large" if abs(value) >= 1 << 63 else f"the number {value}"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or a time"


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _line_of(text: str, *, table: str, key: str) -> int | None:
    """Find the line of a key, or of its table header, as people write them; None for rarer spellings."""
    current, header_line = "", None
    for number, line in enumerate(text.split("\n"), start=1):
        header = re.match(r"\s*\[\s*([\w.\- ]+?)\s*\]", line)
        if header:
            current = header.group(1).replace(" ", "")
            if current == (table or key):
                header_line = number
        elif current == table and key and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""", line):
            return number
    return header_line
