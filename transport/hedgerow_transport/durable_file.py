"""Files that survive a power cut: written aside, synced, renamed, and the rename synced."""

import contextlib
import os
from pathlib import Path

UNFINISHED = ".unfinished"


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file by new content, or leave it as it was.

    Raises
    ------
    OSError
        Full disk, no permission; nothing has changed then.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
