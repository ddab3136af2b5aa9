"""Blobs: bytes named by their digest, cut into chunks and put together again."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from hedgerow_transport import bitmap
from hedgerow_transport.chunk import CHUNK_HEADER_BYTES, decode_chunk, encode_chunk
from hedgerow_transport.errors import BlobError, MessageError
from hedgerow_transport.manifest import BlobRef, chunk_count
from hedgerow_transport.topics import DIGEST_BYTES

_PART = ".part"


def blob_digest(data: bytes) -> bytes:
    """Return the blake2b-128 digest that names a blob."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def blob_chunk(data: bytes, index: int, *, chunk_bytes: int) -> bytes:
    """Return the data of chunk `index` of a blob.

    Raises
    ------
    BlobError
        When the blob has no such chunk.
    """
    part = data[index * chunk_bytes : (index + 1) * chunk_bytes] if index >= 0 else b""
    if not part:
        raise BlobError(f"a blob of {len(data)} bytes has no chunk {index} of {chunk_bytes} bytes")
    return part


def keep_parts(directory: Path, digests: Iterable[bytes]) -> None:
    """Delete what `BlobAssembler` keeps in a directory of all blobs but these.

    What cannot be deleted stays; it does no harm but to the space on the disk.
    """
    names = {digest.hex() + _PART for digest in digests}
    with contextlib.suppress(OSError):
        for path in directory.glob(f"*{_PART}"):
            if path.name not in names:
                path.unlink(missing_ok=True)


class BlobAssembler:
    """Collect the chunks of one blob, in any order and any number of times.

    Nothing is allocated for what has not arrived. With a directory, chunks go to ``<hex digest>.part`` there
    (a header, then chunk payloads as they came), so that a transfer goes on after a restart or a power cut:
    at the next start each chunk in the file is checked by its CRC, and the file is cut at the first one that
    is damaged.

    Parameters
    ----------
    ref : BlobRef
        Digest and size of the blob.
    chunk_bytes : int
        Length of each chunk but the last.
    directory : Path, optional
        Where to keep chunks; without it they are kept in memory.

    Raises
    ------
    BlobError
        When the size and `chunk_bytes` do not go together, or the directory cannot be written.
    """

    def __init__(self, ref: BlobRef, *, chunk_bytes: int, directory: Path | None = None) -> None:
        self.ref = ref
        self.chunk_bytes = chunk_bytes
        try:
            self.num_chunks = chunk_count(ref.size, chunk_bytes)
        except MessageError as error:
            raise BlobError(f"{_name(ref)}: {error}") from error
        self._chunks: dict[int, bytes] = {}
        self._file = None if directory is None else _PartFile(directory, ref=ref, chunk_bytes=chunk_bytes)
        self._complete = False
        if self._file is not None:
            for index, data in self._file.load():
                if self._fits(index, data):
                    self._chunks[index] = data
            if len(self._chunks) == self.num_chunks:
                self._finish()

    @property
    def complete(self) -> bool:
        """Whether all chunks are there and the digest is right."""
        return self._complete

    def add(self, index: int, data: bytes) -> bool:
        """Take a chunk; one that is there already changes nothing.

        Returns
        -------
        bool
            True when the blob is complete and its digest is right.

        Raises
        ------
        BlobError
            When the chunk does not belong to the blob, or when the last one arrived and the digest is wrong:
            then all chunks are forgotten, since any may be the bad one.
        """
        if not self._fits(index, data):
            raise BlobError(f"{_name(self.ref)}: chunk {index} of {len(data)} bytes does not belong to it")
        if self._complete or index in self._chunks:
            return self._complete
        if self._file is not None:
            self._file.append(index, data)
        self._chunks[index] = data
        if len(self._chunks) == self.num_chunks and not self._finish():
            raise BlobError(f"{_name(self.ref)}: the digest does not match; its chunks are forgotten")
        return self._complete

    def holds(self, index: int) -> bool:
        """Say whether a chunk is there."""
        return index in self._chunks

    def have(self) -> bytes:
        """Return the bitmap of chunks that are there."""
        return bitmap.from_indices(self._chunks, size=self.num_chunks)

    def missing(self) -> bytes:
        """Return the bitmap of chunks that are not there."""
        return bitmap.without(bitmap.full(self.num_chunks), self.have())

    def data(self) -> bytes:
        """Return the blob.

        Raises
        ------
        BlobError
            When it is not complete.
        """
        if not self._complete:
            raise BlobError(f"{_name(self.ref)}: {len(self._chunks)} of {self.num_chunks} chunks are there")
        return b"".join(self._chunks[index] for index in range(self.num_chunks))

    def discard(self) -> None:
        """Forget all chunks, also on disk."""
        self._chunks.clear()
        self._complete = False
        if self._file is not None:
            self._file.delete()

    def _fits(self, index: int, data: bytes) -> bool:
        last = self.num_chunks - 1
        expected = self.chunk_bytes if index < last else self.ref.size - last * self.chunk_bytes
        return 0 <= index <= last and len(data) == expected

    def _finish(self) -> bool:
        hasher = blake2b(digest_size=DIGEST_BYTES)
        for index in range(self.num_chunks):
            hasher.update(self._chunks[index])
        if hasher.digest() != self.ref.digest:
            self.discard()
            return False
        self._complete = True
        return True


class _PartFile:
    """The chunks of an unfinished blob on disk, in order of arrival, each as length u32 and chunk payload."""

    _HEADER = struct.Struct(">4sQI")
    _LENGTH = struct.Struct(">I")

    def __init__(self, directory: Path, *, ref: BlobRef, chunk_bytes: int) -> None:
        self._path = directory / (ref.digest.hex() + _PART)
        self._header = self._HEADER.pack(b"HGP1", ref.size, chunk_bytes)
        self._chunk_bytes = chunk_bytes
        overhead = self._LENGTH.size + CHUNK_HEADER_BYTES
        self._max_bytes = len(self._header) + ref.size + overhead * chunk_count(ref.size, chunk_bytes)

    def load(self) -> list[tuple[int, bytes]]:
        """Return the chunks that are whole, and cut the file behind them."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b") as file:
                file.seek(0)
                stored = file.read(self._max_bytes)
                if not stored.startswith(self._header):
                    # New, or of a transfer with another chunk size.
                    file.truncate(0)
                    file.write(self._header)
                    return []
                chunks, whole_bytes = self._parse(stored)
                file.truncate(whole_bytes)
                return chunks
        except OSError as error:
            raise self._failure(error) from error

    def append(self, index: int, data: bytes) -> None:
        payload = encode_chunk(index, data)
        try:
            with open(self._path, "ab") as file:
                if file.tell() == 0:
                    file.write(self._header)
                file.write(self._LENGTH.pack(len(payload)) + payload)
        except OSError as error:
            raise self._failure(error) from error

    def delete(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error) from error

    def _parse(self, stored: bytes) -> tuple[list[tuple[int, bytes]], int]:
        chunks: list[tuple[int, bytes]] = []
        at = len(self._header)
        while at + self._LENGTH.size <= len(stored):
            (length,) = self._LENGTH.unpack_from(stored, at)
            end = at + self._LENGTH.size + length
            try:
                chunks.append(decode_chunk(stored[at + self._LENGTH.size : end], self._chunk_bytes))
            except MessageError:
                # Cut off by a power failure, or rotten: from here on it is sent again.
                break
            at = end
        return chunks, at

    def _failure(self, error: OSError) -> BlobError:
        return BlobError(f"cannot keep chunks in {self._path}: {error.strerror or error}")


def _name(ref: BlobRef) -> str:
    return f"blob {ref.digest.hex()} ({ref.kind}, {ref.size} bytes)"
