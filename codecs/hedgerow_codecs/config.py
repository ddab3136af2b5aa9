"""Codec configurations: JSON objects to codecs and back, with errors a person can act on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from hedgerow_codecs.errors import ConfigError


def config_of(codec: Any) -> dict[str, object]:
    """Return the JSON configuration of a codec: its id and its fields."""
    return {"codec_id": codec.codec_id, **{f.name: getattr(codec, f.name) for f in fields(codec)}}


def check_keys(config: Mapping[str, object], *, codec_id: str, known: Iterable[str]) -> None:
    """Raise `ConfigError` for a key that the codec does not have, naming the nearest that it has."""
    known = [*known, "codec_id"]
    for key in config:
        if key not in known:
            raise unknown(f"codec {codec_id!r} has no setting", str(key), known)


def unknown(what: str, key: str, known: Iterable[str]) -> ConfigError:
    """Make the error for a name that is not known."""
    known = sorted(known)
    nearest = next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.5)), None)
    hint = f"did you mean {nearest!r}?" if nearest else f"known: {', '.join(known)}"
    return ConfigError(f"{what} {key!r}; {hint}", key=key, nearest=nearest)


def check_flag(codec: Any, key: str) -> None:
    """Raise `ConfigError` unless a codec's field is true or false."""
    value = getattr(codec, key)
    if not isinstance(value, bool):
        raise ConfigError(f"codec {codec.codec_id!r}: {key} must be true or false, got {value!r}", key=key)


def check_number(codec: Any, key: str, *, low: float, high: float) -> None:
    """Raise `ConfigError` unless a codec's field is a number in a range, both ends inclusive.

    A field whose default is a whole number takes whole numbers only.
    """
    value = getattr(codec, key)
    default = next(f.default for f in fields(codec) if f.name == key)
    whole = type(default) is int
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"codec {codec.codec_id!r}: {key} must be {kind}, got {value!r}", key=key)
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(
            f"codec {codec.codec_id!r}: {key} must be from {low:g} to {high:g}, got {value!r}", key=key
        )
