"""How much of a blob may be under way at a time: by what arrived, how soon, and what was lost."""

from __future__ import annotations

# Enough for a fast link, and what a lost link costs at most.
FIRST_WINDOW_BYTES = 64 << 10
LARGEST_WINDOW_BYTES = 512 << 10
# One chunk travels while the word that the other came is on its way back.
LEAST_CHUNKS = 2
# Where a chunk is under way for so long a larger window would only make a longer queue.
SLOW_TRIP_S = 4.0
# Chunks that nobody has heard of for so many times a chunk's usual trip are lost; as long as none has made
# the trip, for as long as the slowest link needs (on 20 kbit/s one takes 20 s).
LOST_AFTER_TRIPS = 4
LOST_AFTER_S = (10.0, 60.0)


class Window:
    """Grow with what arrives soon, halve with what is lost.

    Parameters
    ----------
    chunk_bytes
        Size of a chunk.
    """

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._num_bytes = FIRST_WINDOW_BYTES
        self._trip_s: float | None = None

    @property
    def num_bytes(self) -> int:
        """How many bytes may be under way."""
        return max(LEAST_CHUNKS * self._chunk_bytes, self._num_bytes)

    @property
    def num_chunks(self) -> int:
        """How many whole chunks may be under way."""
        return self.num_bytes // self._chunk_bytes

    @property
    def patience_s(self) -> float:
        """After how long a silence what is under way is lost."""
        shortest, longest = LOST_AFTER_S
        trips_s = longest if self._trip_s is None else LOST_AFTER_TRIPS * self._trip_s
        return min(max(shortest, trips_s), longest)

    def arrived(self, num_chunks: int, *, trip_s: float) -> None:
        """Note that chunks have arrived, the last of them so long after it was sent or asked for."""
        self._trip_s = trip_s
        if trip_s < SLOW_TRIP_S:
            self._num_bytes = min(self._num_bytes + num_chunks * self._chunk_bytes, LARGEST_WINDOW_BYTES)

    def lost(self) -> None:
        """Note that something under way was lost."""
        self._num_bytes = max(FIRST_WINDOW_BYTES, self._num_bytes // 2)
