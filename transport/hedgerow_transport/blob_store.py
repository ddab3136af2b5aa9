"""Blobs at rest, by digest: in memory, or one file each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hedgerow_transport.blob import blob_digest
from hedgerow_transport.durable_file import UNFINISHED, write_durably
from hedgerow_transport.errors import BlobError

_SUFFIX = ".blob"


class BlobStore:
    """Keep blobs by digest. With a directory they survive a power cut: written aside, synced, then renamed.

    Parameters
    ----------
    directory : Path, optional
        Where to keep them; without it they are kept in memory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._blobs: dict[bytes, bytes] = {}
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> bytes:
        """Keep a blob and return its digest.

        Raises
        ------
        BlobError
            When it cannot be written.
        """
        digest = blob_digest(data)
        if self._directory is None:
            self._blobs[digest] = bytes(data)
        elif not self._intact(digest):
            try:
                write_durably(self._path(self._directory, digest), data)
            except OSError as error:
                raise BlobError(f"cannot write blob {digest.hex()} to {self._directory}: {error}") from error
        return digest

    def get(self, digest: bytes) -> bytes:
        """Return a blob.

        Raises
        ------
        BlobError
            When it is not there, or its file is damaged (then the file is deleted, so that it is fetched
            again).
        """
        if self._directory is None:
            if digest not in self._blobs:
                raise BlobError(f"blob {digest.hex()} is not here")
            return self._blobs[digest]
        path = self._path(self._directory, digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BlobError(f"blob {digest.hex()} is not here: {error.strerror}") from error
        if blob_digest(data) != digest:
            path.unlink(missing_ok=True)
            raise BlobError(f"blob {digest.hex()} was damaged on disk and is deleted")
        return data

    def has(self, digest: bytes) -> bool:
        """Say whether a blob is there; its content is checked by `get` alone."""
        if self._directory is None:
            return digest in self._blobs
        return self._path(self._directory, digest).is_file()

    def delete(self, digest: bytes) -> None:
        """Forget a blob; nothing happens when it is not there."""
        if self._directory is None:
            self._blobs.pop(digest, None)
        else:
            self._path(self._directory, digest).unlink(missing_ok=True)

    def keep(self, digests: Iterable[bytes]) -> None:
        """Forget all other blobs, and what interrupted writes have left."""
        kept = set(digests)
        self._blobs = {digest: data for digest, data in self._blobs.items() if digest in kept}
        if self._directory is not None:
            names = {digest.hex() + _SUFFIX for digest in kept}
            for path in self._directory.iterdir():
                if path.suffix in (_SUFFIX, UNFINISHED) and path.name not in names:
                    path.unlink(missing_ok=True)

    def _intact(self, digest: bytes) -> bool:
        try:
            self.get(digest)
        except BlobError:
            return False
        return True

    @staticmethod
    def _path(directory: Path, digest: bytes) -> Path:
        return directory / (digest.hex() + _SUFFIX)
