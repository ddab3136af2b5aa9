"""Bounded msgpack: maps with text keys to bytes, and back without trust.

What a decoder must survive: msgpack lets duplicate keys win silently, accepts NaN, and allocates an array as
long as its header claims. So everything has a limit here, and what is not plain data is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import msgpack

from hedgerow_transport.errors import MessageError

MAX_DEPTH = 6
# The one byte that msgpack never uses; see `hedgerow_transport.envelope`.
_SIGNED = b"\xc1"
# An array header allocates 8 bytes per claimed entry before its entries are seen, at each of the parser's
# 1024 levels: 256 entries keep that below 2 MiB.
MAX_ENTRIES = 256


def pack_map(fields: Mapping[str, object]) -> bytes:
    """Encode a map; the caller has checked the values."""
    return bytes(msgpack.Packer(use_bin_type=True).pack(fields))


def unpack_map(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Decode one map of plain data.

    Parameters
    ----------
    data : bytes
        Exactly one msgpack map with text keys.
    max_bytes : int
        Longer data are refused unread.

    Returns
    -------
    dict
        Values of None, bool, int, finite float, str, bytes, list and dict, at most `MAX_DEPTH` deep.

    Raises
    ------
    MessageError
        For anything else.
    """
    if data[:1] == _SIGNED:
        raise MessageError("is signed, and is understood by whoever is started with --credentials")
    if len(data) > max_bytes:
        raise MessageError(f"has {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_map_without_duplicates,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise MessageError(f"is not msgpack ({type(error).__name__}: {str(error)[:120]})") from error
    if not isinstance(value, dict):
        raise MessageError(f"must be a map, is {type(value).__name__}")
    check_plain(value, max_depth=MAX_DEPTH)
    return value


def check_plain(value: object, *, max_depth: int) -> None:
    """Check that a value is plain data, finite, and at most `max_depth` containers deep.

    Raises
    ------
    MessageError
        Otherwise.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MessageError(f"holds {value}, numbers must be finite")
    elif isinstance(value, (list, tuple, dict)):
        if max_depth == 0:
            raise MessageError("is nested too deeply")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise MessageError(f"has a key of type {type(key).__name__}, keys must be text")
        for item in value.values() if isinstance(value, dict) else value:
            check_plain(item, max_depth=max_depth - 1)
    elif value is not None and not isinstance(value, (bool, int, str, bytes)):
        raise MessageError(f"holds a {type(value).__name__}, only plain data are allowed")


def _map_without_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    unpacked = dict(pairs)
    if len(unpacked) != len(pairs):
        raise MessageError("has a key twice")
    return unpacked


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise MessageError(f"holds an extension type ({code}, {len(data)} bytes)")
