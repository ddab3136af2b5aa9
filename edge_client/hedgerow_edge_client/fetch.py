"""Collect the blobs a manifest names, and ask for the chunks that did not come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hedgerow_transport import BlobAssembler, BlobError, BlobRef, Need, Publication, Topics

# How long the way may be silent before missing chunks are asked for, and how far the pause grows.
FIRST_PAUSE_S = 0.3
LONGEST_PAUSE_S = 30.0
# Asking for a few blobs at a time keeps the answer short enough for a slow link.
BLOBS_ASKED_AT_ONCE = 4


class Fetch:
    """Assemble a set of blobs out of broadcast chunks.

    Parameters
    ----------
    refs
        The blobs wanted, each checked against its digest and size.
    chunk_bytes
        Size of a chunk, from the manifest.
    topics
        The names of the namespace.
    jitter
        Returns a number in [0, 1): spreads the requests of many clients over time.
    directory
        Where unfinished blobs are kept, so that a restart asks only for the rest; None keeps them in memory.
    earlier
        A fetch that this one takes the place of; what it has of the same blobs is not asked for again.
    """

    def __init__(
        self,
        refs: Iterable[BlobRef],
        *,
        chunk_bytes: int,
        topics: Topics,
        jitter: Callable[[], float],
        directory: Path | None = None,
        earlier: Fetch | None = None,
    ) -> None:
        self._topics = topics
        self._jitter = jitter
        self._pause_s = FIRST_PAUSE_S
        self._ask_at: float | None = None
        begun = {} if earlier is None else earlier._assemblers
        self._assemblers: dict[bytes, BlobAssembler] = {}
        for ref in refs:
            known = begun.get(ref.digest)
            if known is None or known.ref.size != ref.size or known.chunk_bytes != chunk_bytes:
                known = BlobAssembler(ref, chunk_bytes=chunk_bytes, directory=directory)
            self._assemblers[ref.digest] = known
        self._done: dict[bytes, bytes] = {}
        self._failed: set[bytes] = set()
        for digest, assembler in self._assemblers.items():
            if assembler.complete:
                self._done[digest] = assembler.data()

    @property
    def complete(self) -> bool:
        """Whether every blob is here and checked."""
        return len(self._done) == len(self._assemblers)

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        return None if self.complete else self._ask_at

    def data(self, digest: bytes) -> bytes:
        """Return a finished blob."""
        return self._done[digest]

    def start(self, now: float) -> None:
        """Begin to wait for chunks that the coordinator pushes by itself."""
        self._ask_at = now + self._next_pause()

    def add(self, digest: bytes, index: int, data: bytes, *, now: float) -> bool:
        """Take one chunk; return whether it was one of ours.

        Raises
        ------
        hedgerow_transport.BlobError
            When a chunk or the finished blob does not fit its reference; the blob starts again.
        """
        assembler = self._assemblers.get(digest)
        if assembler is None or digest in self._done:
            return False
        try:
            complete = assembler.add(index, data)
        except BlobError:
            self._failed.add(digest)
            # Growing pauses: a blob that never comes out right must not keep the network busy.
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._ask_at = now + self._next_pause()
            raise
        if digest not in self._failed:
            self._pause_s = FIRST_PAUSE_S
        self._ask_at = now + self._next_pause()
        if complete:
            self._done[digest] = assembler.data()
        return True

    def tick(self, now: float) -> list[Publication]:
        """Return the requests for missing chunks that are due."""
        if self.complete or self._ask_at is None or now < self._ask_at:
            return []
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._ask_at = now + self._next_pause()
        open_blobs = [d for d in self._assemblers if d not in self._done][:BLOBS_ASKED_AT_ONCE]
        return [
            Publication(
                topic=self._topics.need,
                payload=Need(digest=digest, bitmap=self._assemblers[digest].missing()).encode(),
                qos=1,
            )
            for digest in open_blobs
        ]

    def _next_pause(self) -> float:
        return self._pause_s * (1.0 + self._jitter())
