"""Codec ``randk``: entries drawn by a seed, so that their places cost nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import check_flag, check_number, config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import PayloadError, UnencodableError
from hedgerow_codecs.grid import MAX_MAGNITUDE, NUM_STEPS, grid_index, grid_steps
from hedgerow_codecs.live_values import check_encodable
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.splitmix import splitmix
from hedgerow_codecs.stages.pack import pack, packed_bytes, unpack
from hedgerow_codecs.stages.reader import Reader, varint

_SEED_BYTES = 8
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RandKCodec:
    """Sends a random share of the live parameters, each rounded to one step in a few bits.

    Parameters
    ----------
    fraction : float
        Of the live parameters; above 0, to 1 inclusive.
    bits : int
        2 to 16 inclusive.
    seed : int
        0 to 2**53 inclusive. Clients that share a seed send the same places. 0 makes a new seed of each
        update's values: with the same places in all rounds, the others would never be sent.
    unbiased : bool
        Whether values are multiplied by one over the share that is sent, so that their mean over all seeds is
        right (Konecny 2016). Do not use it with error feedback, which then diverges.
    """

    codec_id: ClassVar[str] = "randk"

    fraction: float = 0.05
    bits: int = 8
    seed: int = 0
    unbiased: bool = False

    def __post_init__(self) -> None:
        check_number(self, "fraction", low=1e-9, high=1)
        check_number(self, "bits", low=2, high=16)
        check_number(self, "seed", low=0, high=2**53)
        check_flag(self, "unbiased")

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return config_of(self)

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector; `UnencodableError` for NaN, infinity and magnitudes above 2**125."""
        return self.encode_with_decoded(values, mask=mask)[0]

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        check_encodable(values, mask=mask, max_magnitude=MAX_MAGNITUDE)
        digest = blake2b(values.astype("<f4").tobytes(), digest_size=_SEED_BYTES).digest()
        seed = self.seed or int.from_bytes(digest, "little")
        places = drawn_places(seed, count=math.ceil(self.fraction * values.size), size=values.size)
        chosen = values[places].astype(np.float64)
        if self.unbiased and places.size:
            chosen *= values.size / places.size
        largest = float(np.max(np.abs(chosen), initial=0))
        if largest > MAX_MAGNITUDE:
            raise UnencodableError(f"a value of {largest} once scaled cannot be encoded")
        if largest == 0:
            return varint(0), _update(mask, places[:0], np.zeros(0, np.int32), step=0.0)
        index = grid_index(largest / (2 ** (self.bits - 1) - 1), at_least=True)
        step = float(grid_steps(np.array(index)))
        codes = np.rint(chosen / step).astype(np.int32)
        payload = b"".join(
            [
                varint(places.size),
                bytes([self.bits]),
                seed.to_bytes(_SEED_BYTES, "little"),
                index.to_bytes(2, "little"),
                pack(codes, bits=self.bits),
            ]
        )
        return payload, _update(mask, places, codes, step=step)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload of any ``randk`` codec, whatever its settings; `PayloadError` if malformed."""
        reader = Reader(payload)
        count = reader.varint()
        codes, seed, step = np.zeros(0, np.int32), 0, 0.0
        if count > mask.num_live:
            raise PayloadError(f"{count} of {mask.num_live} entries cannot be drawn", offset=0)
        if count:
            bits = reader.byte()
            if not 2 <= bits <= 16:
                raise PayloadError(f"codes have 2 to 16 bits, not {bits}")
            seed = int.from_bytes(reader.take(_SEED_BYTES), "little")
            index = int.from_bytes(reader.take(2), "little")
            if index >= NUM_STEPS:
                raise PayloadError(f"step {index} is not on the grid of {NUM_STEPS} steps")
            step = float(grid_steps(np.array(index)))
            codes = unpack(reader.take(packed_bytes(count, bits=bits)), count=count, bits=bits)
            if int(np.abs(codes).max()) * step >= 2.0**128:
                raise PayloadError(f"a code times {step} is beyond what float32 holds")
        if reader.rest():
            raise PayloadError("bytes follow the codes")
        return _update(mask, drawn_places(seed, count=count, size=mask.num_live), codes, step=step)


def drawn_places(seed: int, *, count: int, size: int) -> NDArray[np.int64]:
    """Return the `count` of `size` places with the smallest random words, ascending; of equals, the first."""
    if count == 0:
        return np.zeros(0, np.int64)
    words = np.empty(size, np.uint32)
    for start in range(0, size, _BLOCK):
        block = words[start : start + _BLOCK]
        block[:] = splitmix(seed, start=start, count=block.size) >> np.uint64(32)
    border = np.partition(words, count - 1)[count - 1]
    chosen = words < border
    equals = np.flatnonzero(words == border)
    chosen[equals[: count - int(np.count_nonzero(chosen))]] = True
    return np.flatnonzero(chosen).astype(np.int64)


def _update(mask: Mask, places: NDArray[np.int64], codes: NDArray[np.int32], *, step: float) -> DecodedUpdate:
    sent = codes != 0
    steps = np.full(len(mask.lengths), step)
    return DecodedUpdate(mask=mask, positions=places[sent], codes=codes[sent], steps=steps)
