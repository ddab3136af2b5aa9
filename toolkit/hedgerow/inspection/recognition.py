"""Telling what a file is from its first bytes, without reading more of it than is needed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from hedgerow.errors import UsageError
from hedgerow.inspection.arrays import describe_npz, describe_onnx, describe_safetensors
from hedgerow.inspection.description import Description
from hedgerow.inspection.frames import describe_chunk, describe_frame, describe_message
from hedgerow.inspection.runs import STATE_MAGIC, describe_client_state, describe_plan, describe_run
from hedgerow.quantities import bytes_text
from hedgerow_export import ExportError
from hedgerow_transport import CHUNK_HEADER_BYTES, MAX_CHUNK_BYTES, MESSAGE_TYPES

# What has to be read whole is read up to this; a frame or model of an edge device is far smaller.
MAX_READ_BYTES = 1 << 29
MAX_PLAN_BYTES = 1 << 20
_HEAD_BYTES = 72
_FRAME, _ZIP, _SQLITE = b"HG", b"PK\x03\x04", b"SQLite format 3\0"
_JOURNAL = "journal.sqlite"
_HEADER_LENGTH_BYTES = 8
# First byte of a msgpack map, and of an ONNX model (field 1, ir_version).
_SMALL_MAPS, _MAP_16, _ONNX = range(0x80, 0x90), 0xDE, 0x08
_KNOWN = (
    "known are frames, messages, chunks, checkpoints, ONNX models, plans, .npz arrays, "
    "what a client keeps, and run directories"
)


def inspect_path(path: Path) -> Description:
    """Describe a file or a run directory.

    Raises
    ------
    hedgerow.errors.UsageError
        One sentence: missing, not a file, unknown, or damaged and how.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _directory(path)
        # Devices and pipes may never end, and opening a pipe may never return.
        if not stat.S_ISREG(mode):
            raise UsageError("is neither a file nor a directory")
        with path.open("rb") as file:
            return _file(file, path=path)
    except UsageError as error:
        raise UsageError(f"{path} {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def _directory(path: Path) -> Description:
    if not (path / _JOURNAL).is_file():
        raise UsageError(f"is a directory, but not that of a run: there is no {_JOURNAL} in it")
    return describe_run(path)


def _file(file: BinaryIO, *, path: Path) -> Description:
    num_bytes = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not head:
        raise UsageError("is empty")
    if head.startswith(STATE_MAGIC):
        return describe_client_state(_read(file, num_bytes=num_bytes))
    if head.startswith(_FRAME):
        return describe_frame(_read(file, num_bytes=num_bytes))
    if head.startswith(_SQLITE):
        if path.name == _JOURNAL:
            return describe_run(path.absolute().parent)
        raise UsageError(f"is an SQLite database; the journal of a run is {_JOURNAL} in its directory")
    if head.startswith(_ZIP):
        return describe_npz(file, num_bytes=num_bytes)
    if _is_safetensors(head, num_bytes=num_bytes):
        return describe_safetensors(path)
    if (head[0] in _SMALL_MAPS or head[0] == _MAP_16) and num_bytes <= max(
        m.MAX_BYTES for m in MESSAGE_TYPES
    ):
        return describe_message(_read(file, num_bytes=num_bytes))
    return _without_magic(file, head=head, num_bytes=num_bytes, source=path.name)


def _without_magic(file: BinaryIO, *, head: bytes, num_bytes: int, source: str) -> Description:
    """Try what has no mark of its own at the beginning: chunks, plans, ONNX models."""
    if num_bytes <= CHUNK_HEADER_BYTES + MAX_CHUNK_BYTES:
        chunk = describe_chunk(_read(file, num_bytes=num_bytes))
        if chunk is not None:
            return chunk
    if head[0] == _ONNX:
        try:
            return describe_onnx(_read(file, num_bytes=num_bytes))
        except ExportError as error:
            raise UsageError(f"begins like an ONNX model, but: {error}") from error
    if num_bytes <= MAX_PLAN_BYTES:
        data = _read(file, num_bytes=num_bytes)
        if _is_text(data) and b"[run]" in data:
            return describe_plan(data, source=source)
    raise UsageError(f"is nothing that Hedgerow knows; {_KNOWN}")


def _read(file: BinaryIO, *, num_bytes: int) -> bytes:
    if num_bytes > MAX_READ_BYTES:
        raise UsageError(
            f"has {bytes_text(num_bytes)}; at most {bytes_text(MAX_READ_BYTES)} of it would be read"
        )
    file.seek(0)
    # The file may grow meanwhile.
    return file.read(num_bytes)


def _is_safetensors(head: bytes, *, num_bytes: int) -> bool:
    header_bytes = int.from_bytes(head[:_HEADER_LENGTH_BYTES], "little")
    # A cut file is still recognised, and then found to be cut.
    return (
        head[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + 1] == b"{"
        and header_bytes < 100_000_000
        and num_bytes > 8
    )


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
