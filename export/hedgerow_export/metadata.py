"""Hedgerow's entries in a model: the layout, and what is known about the run that made the weights."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hedgerow_codecs import Layout, LayoutError
from hedgerow_export.errors import MetadataError, ModelError
from hedgerow_export.seal import SEAL_KEY

if TYPE_CHECKING:
    import onnx

PREFIX = "hedgerow."
LAYOUT_KEY = "hedgerow.layout"
OWN_KEYS = (LAYOUT_KEY, SEAL_KEY)
_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MAX_VALUE = 4096


def write_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Replace every entry of a model but its layout; keys get the prefix ``hedgerow.``.

    Raises
    ------
    MetadataError
        A key is not of ``a-z 0-9 _ . -`` (1 to 64), belongs to the package, or a value is no text of at most
        4096 characters.
    """
    for key, value in entries.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise MetadataError(f"Metadata key {key!r} is not of the form [a-z0-9_.-]{{1,64}}.", key=str(key))
        if PREFIX + key in OWN_KEYS:
            raise MetadataError(f"Metadata key {key!r} is reserved.", key=key)
        if not isinstance(value, str) or len(value) > _MAX_VALUE or not _is_utf8(value):
            raise MetadataError(
                f"Metadata {key!r} must be UTF-8 text of at most {_MAX_VALUE} characters, got {value!r:.60}.",
                key=key,
            )
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key == LAYOUT_KEY}
    del model.metadata_props[:]
    for key, value in (*kept.items(), *((PREFIX + key, entries[key]) for key in sorted(entries))):
        model.metadata_props.add(key=key, value=value)


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return Hedgerow's entries without prefix, layout and seal; of equal keys the last one counts."""
    return {
        entry.key.removeprefix(PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(PREFIX) and entry.key not in OWN_KEYS
    }


def write_layout(model: onnx.ModelProto, layout: Layout) -> None:
    """Store the layout in a model, as base64 of its canonical bytes."""
    kept = [entry for entry in model.metadata_props if entry.key != LAYOUT_KEY]
    del model.metadata_props[:]
    model.metadata_props.add(key=LAYOUT_KEY, value=base64.b64encode(layout.to_bytes()).decode())
    model.metadata_props.extend(kept)


def read_layout(model: onnx.ModelProto) -> Layout | None:
    """Return the layout stored in a model, or None when the model is not one of Hedgerow's.

    Raises
    ------
    ModelError
        There is an entry for it, and it holds no valid layout.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == LAYOUT_KEY]
    if not texts:
        return None
    if len(texts) > 1:
        raise ModelError("The model holds two layouts; it was put together wrongly.")
    try:
        return Layout.from_bytes(base64.b64decode(texts[0], validate=True))
    except (LayoutError, binascii.Error, ValueError) as error:
        raise ModelError(f"The layout in the model cannot be read: {error}.") from error


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as file names of unknown encoding have
        return False
    return True
