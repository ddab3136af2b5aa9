"""Collect the blobs a manifest names, and ask for the chunks that did not come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from hedgerow_edge_client.window import Window
from hedgerow_transport import (
    BlobAssembler,
    BlobError,
    BlobRef,
    Need,
    Publication,
    Topics,
    bitmap,
)

# How long the way may be silent before missing chunks are asked for, and how far the pause grows.
FIRST_PAUSE_S = 0.6
LONGEST_PAUSE_S = 30.0
# Where chunks come seldom a silence is longer, in parts of their usual gap.
SILENT_SHARE = 0.25
# While bytes come in, chunks may be among them, and on a slow link one takes long. But not for ever.
LONGEST_PATIENCE_S = 120.0
BLOBS_ASKED_AT_ONCE = 4
# Until something has come nobody knows how slow the way is, or whether all of it is under way already.
PROBE_BYTES = 16 << 10
# What was asked for and has not come after so many trips, or so long, is asked for again.
LOST_AFTER_TRIPS = 4
LOST_AFTER_S = 2.0

# So long a client waits whether chunks come that it has not asked for: then somebody else asks already.
PULL_PAUSE_S = 0.05

Chunk = tuple[bytes, int]


class Fetch:
    """Assemble a set of blobs out of broadcast chunks.

    The coordinator broadcasts by itself what is new, so nothing is asked for while the link carries anything.
    After a silence missing chunks are asked for, and from then on more of them as they come, within a window:
    what a lost link costs is bounded by it, and so is the queue in front of a slow one.

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
        Where blobs are kept, so that a restart asks only for the rest; None keeps them in memory.
    heard_at
        Returns when the link last carried anything to here, on the caller's clock.
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
        heard_at: Callable[[], float] = lambda: -math.inf,
        earlier: Fetch | None = None,
    ) -> None:
        self._topics = topics
        self._jitter = jitter
        self._pause_s = FIRST_PAUSE_S
        self._ask_at: float | None = None
        self._chunk_bytes = chunk_bytes
        self._window = Window(chunk_bytes)
        # What was asked for and is not here, and when.
        self._asked: dict[Chunk, float] = {}
        self._pulling = False
        self._heard_at = heard_at
        self._ask_by = math.inf
        # Between the last chunks; 0 as long as none has come.
        self._gap_s: float = 0.0 if earlier is None else earlier._gap_s
        self._moved_at = 0.0
        begun = {} if earlier is None else earlier._assemblers
        self._assemblers: dict[bytes, BlobAssembler] = {}
        for ref in refs:
            known = begun.get(ref.digest)
            if known is None or known.ref.size != ref.size or known.chunk_bytes != chunk_bytes:
                known = _assembler(ref, chunk_bytes=chunk_bytes, directory=directory)
            self._assemblers[ref.digest] = known
        self._failed: set[bytes] = set()

    @property
    def complete(self) -> bool:
        """Whether every blob is here and checked."""
        return all(assembler.complete for assembler in self._assemblers.values())

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        return None if self.complete else self._ask_at

    def wants(self, digest: bytes) -> bool:
        """Say whether a blob is one of those that are assembled here."""
        return digest in self._assemblers

    def data(self, digest: bytes) -> bytes:
        """Return a finished blob."""
        return self._assemblers[digest].data()

    def start(self, now: float) -> None:
        """Begin to wait for chunks, on a link that is new: what was under way is lost."""
        self._asked.clear()
        self._pulling = False
        self._moved_at = now
        self._pause_s = self._quiet_s
        self._wait(now)

    def add(self, digest: bytes, index: int, data: bytes, *, now: float) -> bool:
        """Take one chunk; return whether it was one of ours.

        Raises
        ------
        hedgerow_transport.BlobError
            When a chunk or the finished blob does not fit its reference; the blob starts again.
        """
        assembler = self._assemblers.get(digest)
        if assembler is None or assembler.complete:
            return False
        if assembler.holds(index):
            # Sent for somebody else; what is missing here does not come any sooner by it.
            return True
        try:
            assembler.add(index, data)
        except BlobError:
            self._failed.add(digest)
            # Growing pauses: a blob that never comes out right must not keep the network busy.
            self._pulling = False
            self._asked.clear()
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._wait(now)
            raise
        self._note((digest, index), now=now)
        return True

    def tick(self, now: float) -> list[Publication]:
        """Return the requests for missing chunks that are due."""
        if self.complete or self._ask_at is None or now < self._ask_at:
            return []
        if not self._pulling:
            quiet_at = min(self._heard_at() + self._pause_s, self._ask_by)
            if now < quiet_at:
                self._ask_at = quiet_at
                return []
            if self._asked:
                self._window.lost()
            self._asked.clear()
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._pulling = False
        self._wait(now)
        wanted = self._wanted()
        self._asked.update((chunk, now) for chunk in wanted)
        numbers: dict[bytes, list[int]] = {}
        for digest, index in wanted:
            numbers.setdefault(digest, []).append(index)
        return [self._request(digest, indices) for digest, indices in numbers.items()]

    def _note(self, chunk: Chunk, *, now: float) -> None:
        """Learn from a chunk's arrival how fast the way is, and ask for more when little is under way."""
        self._gap_s = max(now - self._moved_at, self._gap_s / 2, 1e-3)
        self._moved_at = now
        pull_at = self._ask_at if self._pulling else None
        if chunk[0] not in self._failed:
            self._pause_s = self._quiet_s
        self._wait(now)
        asked_at = self._asked.pop(chunk, None)
        if asked_at is None:
            # Somebody else leads the way; to ask as well would only bring chunks twice.
            self._pulling = False
            return
        self._window.arrived(1, trip_s=now - asked_at)
        lost_s = max(LOST_AFTER_S, LOST_AFTER_TRIPS * (now - asked_at))
        self._asked = {other: at for other, at in self._asked.items() if now - at < lost_s}
        few = 2 * self._num_asked <= self._window.num_bytes
        if pull_at is not None:
            self._ask_at = pull_at
        elif few and chunk[0] not in self._failed:
            self._pulling, self._ask_at = True, now + PULL_PAUSE_S * (0.5 + self._jitter())

    def _wanted(self) -> list[Chunk]:
        room = self._window.num_bytes - self._num_asked if self._gap_s else PROBE_BYTES
        wanted: list[Chunk] = []
        incomplete = [d for d, assembler in self._assemblers.items() if not assembler.complete]
        for digest in incomplete[:BLOBS_ASKED_AT_ONCE]:
            assembler = self._assemblers[digest]
            for index in range(assembler.num_chunks):
                if room <= 0:
                    return wanted
                if not assembler.holds(index) and (digest, index) not in self._asked:
                    wanted.append((digest, index))
                    room -= self._size(wanted[-1])
        return wanted

    @property
    def _num_asked(self) -> int:
        return sum(map(self._size, self._asked))

    def _size(self, chunk: Chunk) -> int:
        digest, index = chunk
        return min(self._chunk_bytes, self._assemblers[digest].ref.size - index * self._chunk_bytes)

    def _request(self, digest: bytes, missing: list[int]) -> Publication:
        bits = bitmap.from_indices(missing, size=self._assemblers[digest].num_chunks)
        need = Need(digest=digest, bitmap=bits)
        return Publication(topic=self._topics.need, payload=need.encode(), qos=1)

    @property
    def _quiet_s(self) -> float:
        return min(max(FIRST_PAUSE_S, SILENT_SHARE * self._gap_s), LONGEST_PAUSE_S)

    def _wait(self, now: float) -> None:
        self._ask_at = now + self._pause_s * (1.0 + self._jitter())
        self._ask_by = now + LONGEST_PATIENCE_S


def _assembler(ref: BlobRef, *, chunk_bytes: int, directory: Path | None) -> BlobAssembler:
    try:
        return BlobAssembler(ref, chunk_bytes=chunk_bytes, directory=directory)
    except BlobError:
        # The disk fails: memory will do, and a blob that is wrong by itself is refused again.
        return BlobAssembler(ref, chunk_bytes=chunk_bytes)
