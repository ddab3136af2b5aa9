"""Files of a run directory: read by their digest, written with an error that says what happened."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from hedgerow_coordinator.errors import StoreDamaged, StoreError


def file_digest(data: bytes) -> bytes:
    """Return the blake2b-128 by which the journal knows a file."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_checked(path: Path, *, digest: bytes) -> bytes:
    """Return a file's content.

    Raises
    ------
    StoreDamaged
        It is missing, or not what was written.
    StoreError
        It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreDamaged(f"{path} is missing", path=path) from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", path=path) from error
    if file_digest(data) != digest:
        raise StoreDamaged(f"{path} is not what was written", path=path)
    return data


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; the run is as it was before", path=path
        ) from error
