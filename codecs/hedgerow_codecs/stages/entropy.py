"""Entropy: the bytes that stages have written, in fewer bytes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from hedgerow_codecs.errors import PayloadError
from hedgerow_codecs.stages.signal import Signal, Stage, run_decode, run_encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """zlib, bounded: never inflates beyond what the mask allows."""

    level: int = 6

    def encode(self, signal: Signal) -> Signal:
        return replace(signal, data=zlib.compress(signal.data, self.level))

    def decode(self, signal: Signal) -> Signal:
        limit = _max_inflated_bytes(signal)
        inflater = zlib.decompressobj()
        try:
            # One byte more than is allowed tells too much from just enough; a one-shot decompress would not
            # stop.
            data = inflater.decompress(signal.data, limit + 1)
        except zlib.error as error:
            raise PayloadError(f"payload does not inflate: {error}") from error
        if len(data) > limit:
            raise PayloadError(f"payload inflates to more than {limit} bytes")
        if not inflater.eof or inflater.unused_data:
            raise PayloadError("compressed payload ends too early or too late")
        return replace(signal, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """Tries pipelines and keeps the one with the fewest bytes; its number is the first byte."""

    pipelines: tuple[tuple[Stage, ...], ...]

    def encode(self, signal: Signal) -> Signal:
        results = [run_encode(stages, signal) for stages in self.pipelines]
        number, best = min(enumerate(results), key=lambda result: len(result[1].data))
        return replace(best, data=bytes([number]) + best.data)

    def decode(self, signal: Signal) -> Signal:
        if not signal.data or signal.data[0] >= len(self.pipelines):
            raise PayloadError(f"payload has no form numbered {signal.data[:1].hex() or 'nothing'}", offset=0)
        return run_decode(self.pipelines[signal.data[0]], replace(signal, data=signal.data[1:]))


def _max_inflated_bytes(signal: Signal) -> int:
    # Gaps take at most 4 bytes an entry and codes 4; counts and steps come on top.
    return 8 * signal.mask.num_live + 2 * len(signal.mask.lengths) + 16
