"""Which chunk is broadcast next: first what was never sent, then what somebody misses, each not too often."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

Chunk = tuple[bytes, int]

# Requests that come within this time are answered by one broadcast.
MERGE_S = 0.05
# A request that comes so soon after the chunk went out was on its way already.
CROSSING_S = 0.9
# The n-th repeat of a chunk waits for 2**(n - 1) times this after the one before, at most for the longest.
REPEAT_S = 1.0
LONGEST_REPEAT_S = 60.0
# A rate may be exceeded for so long after a silence.
BURST_S = 0.1


@dataclass(slots=True)
class _Sent:
    at: float
    repeats: int


class ChunkQueue:
    """Hold the chunks that are to be sent, by (digest, index).

    Requests for the same chunk are merged, and whoever asks without end only makes its repeats rarer: they
    are put off, to be sent once for all who have asked by then.

    Parameters
    ----------
    max_bytes_per_s
        Rate at which chunks are given out; 0 for no limit.
    """

    def __init__(self, *, max_bytes_per_s: float = 0.0) -> None:
        self._bytes_per_s = max_bytes_per_s
        self._free_at = -math.inf
        self._ready: deque[Chunk] = deque()
        # What is put off, by when it is due; a chunk is in one of the two at most.
        self._later: list[tuple[float, int, Chunk]] = []
        self._order = itertools.count()
        self._waiting: set[Chunk] = set()
        self._sent: dict[bytes, dict[int, _Sent]] = {}
        self._merge_until = -math.inf

    def push(self, digest: bytes, indices: Iterable[int]) -> None:
        """Queue chunks that are to go out whether or not somebody asks."""
        for index in indices:
            if (digest, index) not in self._waiting:
                self._waiting.add((digest, index))
                self._ready.append((digest, index))

    def ask(self, digest: bytes, indices: Iterable[int], *, now: float) -> None:
        """Queue chunks that somebody misses, each for when it may be sent again."""
        if now >= self._merge_until:
            self._merge_until = now + MERGE_S
        sent = self._sent.get(digest, {})
        for index in indices:
            chunk = (digest, index)
            before = sent.get(index)
            if chunk in self._waiting or (before is not None and now < before.at + CROSSING_S):
                continue
            due = self._merge_until if before is None else max(self._merge_until, _next_at(before))
            self._waiting.add(chunk)
            heapq.heappush(self._later, (due, next(self._order), chunk))

    @property
    def wake_at(self) -> float | None:
        """When `take` has something, on the caller's clock; None when nothing waits."""
        if self._ready:
            return self._free_at
        return max(self._later[0][0], self._free_at) if self._later else None

    @property
    def last_at(self) -> float:
        """When the last of what waits can go out at the earliest."""
        if not self._waiting:
            return -math.inf
        return max(self._free_at, *(due for due, _, _ in self._later), -math.inf)

    def take(self, now: float) -> Chunk | None:
        """Return the chunk to be sent now, if there is one; say with `note` that it was."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if not self._ready or now < self._free_at:
            return None
        chunk = self._ready.popleft()
        self._waiting.discard(chunk)
        return chunk

    def note(self, chunk: Chunk, num_bytes: int, *, now: float) -> None:
        """Note that a chunk was sent, with so many bytes."""
        if self._bytes_per_s:
            self._free_at = max(self._free_at, now - BURST_S) + num_bytes / self._bytes_per_s
        digest, index = chunk
        chunks = self._sent.setdefault(digest, {})
        before = chunks.get(index)
        calm = before is None or now > before.at + 2 * LONGEST_REPEAT_S
        chunks[index] = _Sent(now, 0 if before is None or calm else before.repeats + 1)

    def keep(self, digests: set[bytes]) -> None:
        """Forget the chunks of all other blobs."""
        self._ready = deque(chunk for chunk in self._ready if chunk[0] in digests)
        self._later = [entry for entry in self._later if entry[2][0] in digests]
        heapq.heapify(self._later)
        self._waiting = {*self._ready, *(chunk for _, _, chunk in self._later)}
        self._sent = {digest: sent for digest, sent in self._sent.items() if digest in digests}


def _next_at(before: _Sent) -> float:
    return before.at + min(math.ldexp(REPEAT_S, min(before.repeats, 60)), LONGEST_REPEAT_S)
