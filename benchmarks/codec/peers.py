"""What else updates are coded with: general compressors on small integers and halves, STC and QSGD.

A `Coder` is a name and two functions. Those here are short and take a knob, the log2 of a step; nncodec and
Hedgerow's own codecs are in files of their own.
"""

from __future__ import annotations

import importlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.codec.bits import read_gamma, read_rice, rice_parameter, write_gamma, write_rice
from benchmarks.codec.measures import entropy_bytes, snr_db
from benchmarks.codec.rate import Curve, Point
from numpy.typing import NDArray

from hedgerow_codecs.mask import Mask

Vector = NDArray[np.float32]
_LENGTH = np.dtype("<u4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coder:
    """A way to turn live vectors into bytes and back.

    Parameters
    ----------
    name : str
    encode, decode : callable
        Live vector and mask to bytes; bytes and mask to the vector.
    symbols : callable or None
        Bytes and mask to the integer codes of all entries, where there are such.
    note : str
        What a reader of its numbers must know.
    """

    name: str
    encode: Callable[[Vector, Mask], bytes]
    decode: Callable[[bytes, Mask], Vector]
    symbols: Callable[[bytes, Mask], NDArray[np.integer[Any]]] | None = None
    note: str = ""


def int8_coder(
    name: str,
    compress: Callable[[bytes], bytes],
    decompress: Callable[[bytes], bytes],
    *,
    log2_step: float,
) -> Coder:
    """Make a coder of 8-bit integers: a step for each tensor, as many root mean squares as the knob says."""

    def encode(vector: Vector, mask: Mask) -> bytes:
        rms = np.array([_rms(part) for part in _parts(vector, mask)])
        # Never so small that the largest would not fit.
        largest = np.array([float(np.max(np.abs(part), initial=0)) for part in _parts(vector, mask)])
        steps = np.maximum(rms * 2.0**log2_step, largest / 127).astype("<f4")
        codes: NDArray[np.int8] = np.empty(vector.size, np.int8)
        start = 0
        for part, step in zip(_parts(vector, mask), steps.tolist(), strict=True):
            codes[start : start + part.size] = np.rint(part / step) if step else 0
            start += part.size
        scales: bytes = steps.tobytes()
        return scales + compress(codes.tobytes())

    def symbols(blob: bytes, mask: Mask) -> NDArray[np.int8]:
        return np.frombuffer(decompress(blob[4 * len(mask.lengths) :]), np.int8)

    def decode(blob: bytes, mask: Mask) -> Vector:
        steps = np.frombuffer(blob, "<f4", count=len(mask.lengths))
        values: Vector = symbols(blob, mask).astype(np.float32)
        values *= np.repeat(steps, mask.lengths)
        return values

    return Coder(name=name, encode=encode, decode=decode, symbols=symbols)


def zlib_int8(log2_step: float) -> Coder:
    """Make zlib (level 6) on 8-bit integers."""
    return int8_coder(
        "zlib int8",
        lambda data: zlib.compress(data, 6),
        zlib.decompress,
        log2_step=log2_step,
    )


def zstd_int8(log2_step: float) -> Coder:
    """Make zstd (level 9) on 8-bit integers; ImportError without package ``zstandard``."""
    zstd = importlib.import_module("zstandard")
    return int8_coder(
        "zstd int8",
        lambda data: bytes(zstd.ZstdCompressor(level=9).compress(data)),
        lambda data: bytes(zstd.ZstdDecompressor().decompress(data)),
        log2_step=log2_step,
    )


def blosc2_int8(log2_step: float) -> Coder:
    """Make blosc2 (shuffled bits, zstd at level 5) on 8-bit integers; ImportError without it."""
    blosc2 = importlib.import_module("blosc2")
    how = {"typesize": 1, "clevel": 5, "codec": blosc2.Codec.ZSTD, "nthreads": 1}
    filters = {"filters": [blosc2.Filter.BITSHUFFLE], "filters_meta": [0]}
    return int8_coder(
        "blosc2 int8",
        lambda data: bytes(blosc2.compress2(data, **how, **filters)),
        lambda data: bytes(blosc2.decompress2(data, nthreads=1)),
        log2_step=log2_step,
    )


def fp16_zstd(_: float = 0.0) -> Coder:
    """Make half precision and zstd (level 9), each tensor scaled by its largest value."""
    zstd = importlib.import_module("zstandard")

    def encode(vector: Vector, mask: Mask) -> bytes:
        scales = np.array([float(np.max(np.abs(part), initial=0)) for part in _parts(vector, mask)], "<f4")
        divisors = np.repeat(np.where(scales > 0, scales, 1).astype(np.float32), mask.lengths)
        halves = (vector / divisors).astype("<f2")
        return scales.tobytes() + bytes(zstd.ZstdCompressor(level=9).compress(halves.tobytes()))

    def decode(blob: bytes, mask: Mask) -> Vector:
        scales = np.frombuffer(blob, "<f4", count=len(mask.lengths))
        halves = np.frombuffer(zstd.ZstdDecompressor().decompress(blob[4 * len(mask.lengths) :]), "<f2")
        values: Vector = halves.astype(np.float32) * np.repeat(scales, mask.lengths)
        return values

    return Coder(name="fp16 zstd", encode=encode, decode=decode)


def stc_golomb(log2_step: float) -> Coder:
    """Make sparse ternary compression with Golomb gaps (Sattler 2020); the knob is the share that is sent."""
    share = min(2.0 ** (-6 - log2_step), 0.5)

    def encode(vector: Vector, mask: Mask) -> bytes:
        count = min(max(1, round(share * mask.num_live)), mask.num_live)
        magnitudes = np.abs(vector)
        places = np.sort(np.argpartition(magnitudes, mask.num_live - count)[mask.num_live - count :])
        magnitude = np.float32(np.mean(magnitudes[places], dtype=np.float64))
        gaps = np.diff(places, prepend=-1) - 1
        bits = np.concatenate([write_rice(gaps, low_bits=rice_parameter(share)), vector[places] < 0])
        return magnitude.tobytes() + _LENGTH.type(count).tobytes() + np.packbits(bits).tobytes()

    def symbols(blob: bytes, mask: Mask) -> NDArray[np.int8]:
        count = int(np.frombuffer(blob, _LENGTH, count=1, offset=4)[0])
        bits = np.unpackbits(np.frombuffer(blob, np.uint8, offset=8))
        gaps, end = read_rice(bits, count=count, low_bits=rice_parameter(share))
        codes = np.zeros(mask.num_live, np.int8)
        codes[np.cumsum(gaps + 1) - 1] = 1 - 2 * bits[end : end + count].astype(np.int8)
        return codes

    def decode(blob: bytes, mask: Mask) -> Vector:
        values: Vector = symbols(blob, mask) * np.frombuffer(blob, "<f4", count=1)[0]
        return values

    return Coder(name="STC Golomb", encode=encode, decode=decode, symbols=symbols, note="plain Python")


def qsgd_elias(log2_step: float) -> Coder:
    """Make QSGD (Alistarh 2017): unbiased random rounding, one norm for all, Elias codes."""

    def encode(vector: Vector, _: Mask) -> bytes:
        step = np.float32(_rms(vector) * 2.0**log2_step)
        levels = np.abs(vector) / step if step else np.zeros_like(vector)
        rounded = np.floor(levels + np.random.default_rng(7).random(vector.size)).astype(np.int64)
        places = np.flatnonzero(rounded)
        gaps = write_gamma(np.diff(places, prepend=-1))
        bits = np.concatenate([gaps, write_gamma(rounded[places]), vector[places] < 0])
        return step.tobytes() + _LENGTH.type(places.size).tobytes() + np.packbits(bits).tobytes()

    def symbols(blob: bytes, mask: Mask) -> NDArray[np.int64]:
        count = int(np.frombuffer(blob, _LENGTH, count=1, offset=4)[0])
        bits = np.unpackbits(np.frombuffer(blob, np.uint8, offset=8))
        gaps, end = read_gamma(bits, count=count)
        levels, more = read_gamma(bits[end:], count=count)
        codes = np.zeros(mask.num_live, np.int64)
        signs = bits[end + more : end + more + count].astype(np.int64)
        codes[np.cumsum(gaps) - 1] = levels * (1 - 2 * signs)
        return codes

    def decode(blob: bytes, mask: Mask) -> Vector:
        values: Vector = symbols(blob, mask).astype(np.float32) * np.frombuffer(blob, "<f4", count=1)[0]
        return values

    return Coder(name="QSGD Elias", encode=encode, decode=decode, symbols=symbols, note="plain Python")


# By name: how to make it, and the smallest step it is tried at.
WITH_KNOB: dict[str, tuple[Callable[[float], Coder], float]] = {
    "zlib int8": (zlib_int8, -6.0),
    "zstd int8": (zstd_int8, -6.0),
    "blosc2 int8": (blosc2_int8, -6.0),
    "STC Golomb": (stc_golomb, -5.0),
    "QSGD Elias": (qsgd_elias, -6.0),
}


def peer_curve(name: str, vector: Vector, mask: Mask) -> Curve:
    """Return a peer on a vector at any step; ImportError where it is missing."""
    make, low = WITH_KNOB[name]
    make(0.0)

    def code(log2_step: float) -> Point:
        coder = make(log2_step)
        blob = coder.encode(vector, mask)
        return Point(num_bytes=len(blob), snr_db=snr_db(vector, coder.decode(blob, mask)))

    return Curve(coder=code, low=low, high=8.0, around=0)


def entropy_of(coder: Coder, blob: bytes, mask: Mask) -> float | None:
    """Return the per-tensor zeroth-order entropy of what was sent, in bytes; None where it is no integers."""
    return entropy_bytes(coder.symbols(blob, mask), lengths=mask.lengths) if coder.symbols else None


def _parts(vector: Vector, mask: Mask) -> list[Vector]:
    ends = np.cumsum(mask.lengths)
    return np.split(vector, ends[:-1])


def _rms(values: Vector) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
