"""The way down: one stream of chunks for everybody, and again what somebody misses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hedgerow_transport import (
    BlobError,
    BlobRef,
    BlobStore,
    Need,
    Publication,
    Topics,
    bitmap,
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
        self.asked_at = float("-inf")

    def add(self, kind: str, data: bytes) -> BlobRef:
        """Keep a blob and return its reference."""
        digest = blob_digest(data)
        self._blobs.put(data)
        self._sizes[digest] = len(data)
        return BlobRef(kind=kind, digest=digest, size=len(data))

    def know(self, ref: BlobRef) -> bool:
        """Take up a blob kept by an earlier process; return whether it is still there, and whole."""
        return self._read(ref.digest, size=ref.size) is not None

    def has(self, ref: BlobRef) -> bool:
        """Return whether a blob can be sent."""
        return ref.digest in self._sizes

    def keep(self, refs: Iterable[BlobRef]) -> None:
        """Drop all other blobs: nobody will be sent them any more."""
        kept = {ref.digest for ref in refs}
        self._sizes = {digest: size for digest, size in self._sizes.items() if digest in kept}
        self._pushed &= kept
        self._blobs.keep(kept)

    def first_time(self, ref: BlobRef) -> bool:
        """Return whether this process has not sent the blob yet."""
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
        self._note(message.digest, message.bitmap, now=now)
        return True

    def want(self, refs: Iterable[BlobRef], *, now: float) -> None:
        """Note that a client misses all of these; those who ask at the same time are served by one stream."""
        for ref in refs:
            if self.has(ref):
                self._note(ref.digest, bitmap.full(chunk_count(ref.size, self._chunk_bytes)), now=now)

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        return self._answer_at

    def tick(self, now: float) -> list[Publication]:
        """Return the union of what was asked for, when it is due."""
        if self._answer_at is None or now < self._answer_at:
            return []
        needed, self._needed, self._answer_at = self._needed, {}, None
        self._pushed |= needed.keys() & self._sizes.keys()
        return [p for digest, missing in needed.items() for p in self._chunks(digest, indices(missing))]

    def _note(self, digest: bytes, missing: bytes, *, now: float) -> None:
        self._needed[digest] = union(self._needed.get(digest, b""), missing)
        self.asked_at = now
        if self._answer_at is None:
            self._answer_at = now + MERGE_S

    def _chunks(self, digest: bytes, numbers: Iterable[int]) -> Iterator[Publication]:
        data = self._read(digest, size=self._sizes.get(digest, 0))
        if data is None:
            return
        topic = self._topics.blob(digest)
        for index in numbers:
            part = blob_chunk(data, index, chunk_bytes=self._chunk_bytes)
            yield Publication(topic=topic, payload=encode_chunk(index, part), qos=0)

    def _read(self, digest: bytes, *, size: int) -> bytes | None:
        """Return a blob; None, and it is forgotten, when it is gone or its file is damaged."""
        try:
            data = self._blobs.get(digest)
        except BlobError:
            data = b""
        if not data or len(data) != size:
            # Whoever still wants it is brought along by a keyframe with the next version.
            self._sizes.pop(digest, None)
            return None
        self._sizes[digest] = size
        return data
