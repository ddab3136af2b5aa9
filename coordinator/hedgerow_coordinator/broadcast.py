"""The way down: one stream of chunks for everybody, and again what somebody misses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from hedgerow_coordinator.chunk_queue import ChunkQueue
from hedgerow_transport import (
    BlobError,
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
)

# How soon to look again whether the link has room.
ROOM_PAUSE_S = 0.01


class Broadcast:
    """Hold the blobs of a run, and cut them into publications as fast as rate and link allow.

    Parameters
    ----------
    blobs
        Where blobs are kept by digest.
    topics
        The names of the namespace.
    chunk_bytes
        Size of a chunk.
    max_bytes_per_s
        Rate of all chunks together; 0 for no limit.
    room
        Returns how many bytes the link should be given now: what is queued there delays everything else.
    resumes
        Whether blobs may be known from an earlier process of ours: who asks for the end has the beginning.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        topics: Topics,
        chunk_bytes: int,
        max_bytes_per_s: float = 0.0,
        room: Callable[[], float] = lambda: math.inf,
        resumes: bool = False,
    ) -> None:
        self._resumes = resumes
        self._blobs = blobs
        self._topics = topics
        self._chunk_bytes = chunk_bytes
        self._room = room
        self._queue = ChunkQueue(max_bytes_per_s=max_bytes_per_s)
        self._sizes: dict[bytes, int] = {}
        self._pushed: set[bytes] = set()
        # What is being sent, so that it is not read and checked again for each chunk.
        self._open: tuple[bytes, bytes] | None = None
        self._next_look = -math.inf
        self._active_at = -math.inf

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
        self._queue.keep(kept)
        self._blobs.keep(kept)

    def first_time(self, ref: BlobRef) -> bool:
        """Return whether this process has not sent the blob yet."""
        return ref.digest not in self._pushed

    def push(self, refs: Iterable[BlobRef]) -> None:
        """Queue all chunks of the blobs, in order."""
        for ref in refs:
            self._pushed.add(ref.digest)
            self._queue.push(ref.digest, range(chunk_count(ref.size, self._chunk_bytes)))

    def need(self, message: Need, *, now: float) -> bool:
        """Note what a client misses; return whether the blob is one of ours and the bitmap fits it."""
        size = self._sizes.get(message.digest)
        if size is None:
            return False
        missing = indices(message.bitmap)
        if not missing or missing[-1] >= chunk_count(size, self._chunk_bytes):
            return False
        if message.digest not in self._pushed and not (self._resumes and missing[0] > 0):
            # Nobody has any of it, so that everybody will ask for all of it.
            missing = list(range(chunk_count(size, self._chunk_bytes)))
        self._ask(message.digest, missing, now=now)
        return True

    def want(self, refs: Iterable[BlobRef], *, now: float) -> None:
        """Note that a client misses all of these; those who ask at the same time are served by one stream."""
        for ref in refs:
            if self.has(ref):
                self._ask(ref.digest, range(chunk_count(ref.size, self._chunk_bytes)), now=now)

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        due = self._queue.wake_at
        return None if due is None else max(due, self._next_look)

    @property
    def busy_until(self) -> float:
        """When somebody last asked for something or was sent it, or when what waits goes out."""
        return max(self._active_at, self._queue.last_at)

    def tick(self, now: float) -> list[Publication]:
        """Return the chunks that may be sent now."""
        publications: list[Publication] = []
        room = self._room()
        while room > 0 and (chunk := self._queue.take(now)) is not None:
            publication = self._publication(*chunk)
            if publication is not None:
                room -= len(publication.payload)
                self._queue.note(chunk, len(publication.payload), now=now)
                publications.append(publication)
        if publications:
            self._active_at = now
        if self._queue.wake_at is None:
            self._open = None
        self._next_look = now + ROOM_PAUSE_S if room <= 0 else -math.inf
        return publications

    def _ask(self, digest: bytes, missing: Iterable[int], *, now: float) -> None:
        self._active_at = now
        self._pushed.add(digest)
        self._queue.ask(digest, missing, now=now)

    def _publication(self, digest: bytes, index: int) -> Publication | None:
        if self._open is None or self._open[0] != digest:
            data = self._read(digest, size=self._sizes.get(digest, 0))
            if data is None:
                return None
            self._open = (digest, data)
        part = blob_chunk(self._open[1], index, chunk_bytes=self._chunk_bytes)
        return Publication(topic=self._topics.blob(digest), payload=encode_chunk(index, part), qos=0)

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
