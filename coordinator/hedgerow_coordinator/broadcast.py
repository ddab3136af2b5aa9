"""The way down: one stream of chunks for everybody, and again what somebody misses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hedgerow_transport import (
    BlobRef,
    BlobStore,
    Need,
    Publication,
    Topics,
    blob_chunk,
    blob_digest,
    chunk_count,
    encode_chunk,
    indices,
    union,
)

# Requests that come within this time are answered by one broadcast.
MERGE_S = 0.05


class Broadcast:
    """Hold the blobs of a run, and cut them into publications.

    Parameters
    ----------
    blobs
        Where blobs are kept by digest.
    topics
        The names of the namespace.
    chunk_bytes
        Size of a chunk.
    """

    def __init__(self, blobs: BlobStore, *, topics: Topics, chunk_bytes: int) -> None:
        self._blobs = blobs
        self._topics = topics
        self._chunk_bytes = chunk_bytes
        self._sizes: dict[bytes, int] = {}
        self._pushed: set[bytes] = set()
        self._needed: dict[bytes, bytes] = {}
        self._answer_at: float | None = None

    def add(self, kind: str, data: bytes) -> BlobRef:
        """Keep a blob and return its reference."""
        digest = blob_digest(data)
        self._blobs.put(data)
        self._sizes[digest] = len(data)
        return BlobRef(kind=kind, digest=digest, size=len(data))

    def know(self, ref: BlobRef) -> bool:
        """Take up a blob kept by an earlier process; return whether it is still there."""
        if not self._blobs.has(ref.digest):
            return False
        self._sizes[ref.digest] = ref.size
        return True

    def forget(self, refs: Iterable[BlobRef]) -> None:
        """Drop blobs that nobody will be sent any more."""
        for ref in refs:
            self._sizes.pop(ref.digest, None)
            self._pushed.discard(ref.digest)
            self._blobs.delete(ref.digest)

    def first_time(self, ref: BlobRef) -> bool:
        """Return whether this process has not pushed the blob yet."""
        return ref.digest not in self._pushed

    def push(self, refs: Iterable[BlobRef]) -> Iterator[Publication]:
        """Yield all chunks of the blobs, in order."""
        for ref in refs:
            self._pushed.add(ref.digest)
            yield from self._chunks(ref.digest, range(chunk_count(ref.size, self._chunk_bytes)))

    def need(self, message: Need, *, now: float) -> bool:
        """Note what a client misses; return whether the blob is one of ours and the bitmap fits it."""
        size = self._sizes.get(message.digest)
        if size is None:
            return False
        missing = indices(message.bitmap)
        if not missing or missing[-1] >= chunk_count(size, self._chunk_bytes):
            return False
        self._needed[message.digest] = union(self._needed.get(message.digest, b""), message.bitmap)
        if self._answer_at is None:
            self._answer_at = now + MERGE_S
        return True

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        return self._answer_at

    def tick(self, now: float) -> list[Publication]:
        """Return the union of what was asked for, when it is due."""
        if self._answer_at is None or now < self._answer_at:
            return []
        needed, self._needed, self._answer_at = self._needed, {}, None
        known = {digest: bitmap for digest, bitmap in needed.items() if digest in self._sizes}
        return [p for digest, bitmap in known.items() for p in self._chunks(digest, indices(bitmap))]

    def _chunks(self, digest: bytes, numbers: Iterable[int]) -> Iterator[Publication]:
        data, topic = self._blobs.get(digest), self._topics.blob(digest)
        for index in numbers:
            part = blob_chunk(data, index, chunk_bytes=self._chunk_bytes)
            yield Publication(topic=topic, payload=encode_chunk(index, part), qos=0)
