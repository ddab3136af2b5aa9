"""Reading a payload front to back, never beyond its end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import PayloadError

_MAX_VARINT_BYTES = 5
_STATE_BITS = 16  # at least, below the leading one


def varint(number: int) -> bytes:
    """Write an unsigned LEB128: seven bits a byte, lowest first, the high bit set on all but the last.

    Examples
    --------
    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def write_section(states: NDArray[np.uint32], words: NDArray[np.uint16]) -> bytes:
    """Write the number of words, lengths and bits of the states, and the words.

    A state is as likely to have 17 bits as 32: to say how many saves half of what its 32 bits waste.
    """
    lengths = np.frexp(states.astype(np.float64))[1].astype(np.int64) - 1  # bits below the leading one
    nibbles = np.append(lengths - _STATE_BITS, np.zeros(states.size % 2, np.int64)).reshape(-1, 2)
    owners, places = bit_places(lengths)
    bits = (states.astype(np.int64)[owners] >> places & 1).astype(np.uint8)
    return b"".join(
        [
            varint(words.size),
            (nibbles[:, 0] + 16 * nibbles[:, 1]).astype(np.uint8).tobytes(),
            np.packbits(bits, bitorder="little").tobytes(),
            words.astype("<u2").tobytes(),
        ]
    )


def bit_places(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each of so many bits whose it is, and which of its owner's, lowest first."""
    owners = np.repeat(np.arange(counts.size), counts)
    places = np.arange(owners.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, places


class Cargo:
    """Bytes that ride in the lanes' first states, two in each, and what of them found no room."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def lanes(self) -> int:
        """Number of lanes that it would fill."""
        return len(self._data) // 2

    def take(self, lanes: int) -> NDArray[np.uint16]:
        """Return the next bytes for a number of lanes, zeros when there are no more."""
        taken, self._data = self._data[: 2 * lanes], self._data[2 * lanes :]
        return np.frombuffer(taken.ljust(2 * lanes, b"\0"), "<u2").astype(np.uint16)

    def rest(self) -> bytes:
        """Return the bytes that were not taken."""
        return self._data


class Reader:
    """Bytes and how far they have been read; every method raises `PayloadError` rather than read too far."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self._stowed = b""
        self._stowed_ends = 0
        self._bits = np.zeros(0, np.bool_)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self._data) - self._place:
            raise PayloadError(f"payload ends {count} bytes too early", offset=self._place)
        self._place += count
        return self._data[self._place - count : self._place]

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Return the next LEB128, of at most 5 bytes and no longer than it has to be."""
        number = 0
        for position in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                if byte == 0 and position:
                    break
                return number
        raise PayloadError("a number is longer than it has to be", offset=self._place)

    def section(self, *, lanes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """Return the states of `lanes` lanes and the words that `write_section` wrote."""
        count = self.varint()
        packed = np.frombuffer(self.take((lanes + 1) // 2), np.uint8)
        nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
        if np.any(nibbles[lanes:]):
            raise PayloadError("a length beyond the last lane's is set", offset=self._place)
        lengths = nibbles[:lanes].astype(np.int64) + _STATE_BITS
        total = int(lengths.sum())
        bits = np.unpackbits(np.frombuffer(self.take((total + 7) // 8), np.uint8), bitorder="little")
        if np.any(bits[total:]):
            raise PayloadError("bits beyond the last state are set", offset=self._place)
        owners, places = bit_places(lengths)
        states = np.left_shift(1, lengths)
        np.add.at(states, owners, bits[:total].astype(np.int64) << places)
        words = np.frombuffer(self.take(2 * count), "<u2").astype(np.uint16)
        return states.astype(np.uint32), words

    def bits(self, count: int) -> NDArray[np.bool_]:
        """Return the next bits, lowest of a byte first; bits not yet asked for wait for the next call."""
        packed = np.frombuffer(self.take(max(count - self._bits.size + 7, 0) // 8), np.uint8)
        fresh = np.unpackbits(packed, bitorder="little").astype(np.bool_)
        bits = np.concatenate([self._bits, fresh])
        self._bits = bits[count:]
        return bits[:count]

    def end_bits(self) -> None:
        """Go on at the next whole byte; the bits before it must be zeros."""
        if self._bits.any():
            raise PayloadError("bits beyond the last one are set", offset=self._place)
        self._bits = self._bits[:0]

    def stow(self, words: NDArray[np.uint16]) -> None:
        """Keep the cargo of lanes."""
        self._stowed += words.astype("<u2").tobytes()

    def unload(self) -> None:
        """Go on reading with the cargo, then with what follows."""
        self._data = self._stowed + self._data[self._place :]
        self._place, self._stowed_ends = 0, len(self._stowed)

    def rest(self) -> bytes:
        """Return all that is left; cargo that was never read must be zeros."""
        unread = self._data[self._place : self._stowed_ends]
        if any(unread):
            raise PayloadError("lanes carry more than there is to carry", offset=self._place)
        self._place += len(unread)
        return self.take(len(self._data) - self._place)
