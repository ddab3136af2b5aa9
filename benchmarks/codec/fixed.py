"""Every codec at one setting: bytes, distortion, entropy and speed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from benchmarks.codec.cases import Case
from benchmarks.codec.codecs import decode, encode
from benchmarks.codec.measures import dense_codes, geometric_mean, snr_db
from benchmarks.codec.nnc import Nncodec, nncodec_coder
from benchmarks.codec.peers import (
    Coder,
    Vector,
    blosc2_int8,
    entropy_of,
    fp16_zstd,
    qsgd_elias,
    stc_golomb,
    zlib_int8,
    zstd_int8,
)
from numpy.typing import NDArray

from hedgerow_codecs import codec_from_config
from hedgerow_codecs.mask import Mask

HEDGEROW: Mapping[str, dict[str, object]] = {
    "deadzone": {"codec_id": "deadzone"},
    "deadzone 8": {"codec_id": "deadzone", "step": 8.0},
    "deadzone 0.5": {"codec_id": "deadzone", "step": 0.5},
    "trellis": {"codec_id": "trellis"},
    "topk": {"codec_id": "topk"},
    "ternary": {"codec_id": "ternary"},
    "randk": {"codec_id": "randk"},
    "integer": {"codec_id": "integer"},
    "uniform 4": {"codec_id": "uniform", "bits": 4},
    "uniform 8": {"codec_id": "uniform", "bits": 8},
    "fp16": {"codec_id": "fp16"},
    "float32": {"codec_id": "float32"},
}
"""Hedgerow's codecs: defaults, but for what the name says (a step, or bits)."""

FIXED_HEADER = (
    f"{'case':17} {'codec':15} {'bytes':>9} {'bits':>7} {'/entropy':>8} {'SNR':>6}"
    f" {'enc MB/s':>8} {'dec MB/s':>8}"
)
_INTEGER_STEPS = 2.0
T = TypeVar("T")
PEERS: Mapping[str, Callable[[], Coder]] = {
    "zlib int8": lambda: zlib_int8(0.0),
    "zstd int8": lambda: zstd_int8(0.0),
    "blosc2 int8": lambda: blosc2_int8(0.0),
    "fp16 zstd": fp16_zstd,
    "STC Golomb": lambda: stc_golomb(0.644),  # 1 % of the entries
    "QSGD Elias": lambda: qsgd_elias(1.0),
    "nncodec": lambda: nncodec_coder(Nncodec(), trellis=False),
    "nncodec trellis": lambda: nncodec_coder(Nncodec(), trellis=True),
}
"""Peers: a step of one root mean square (of a tensor for int8; QSGD and nncodec: two, of the whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec on one vector; speeds are megabytes of float32 in a second."""

    case: str
    codec: str
    num_bytes: int
    bits_per_parameter: float
    ratio_to_entropy: float | None
    snr_db: float | None
    encode_mb_s: float
    decode_mb_s: float


def hedgerow_coder(name: str, vector: Vector) -> Coder:
    """Make one of Hedgerow's codecs; `integer` gets a step of two root mean squares."""
    config = dict(HEDGEROW[name])
    if name == "integer":
        config["step"] = _INTEGER_STEPS * float(np.sqrt(np.mean(np.square(vector, dtype=np.float64))))
    codec = codec_from_config(config)

    def symbols(blob: bytes, mask: Mask) -> NDArray[np.int32]:
        codes = dense_codes(decode(blob, mask=mask))
        assert codes is not None
        return codes

    return Coder(
        name=name,
        encode=lambda values, mask: encode(values, mask=mask, codec=codec)[0],
        decode=lambda blob, mask: decode(blob, mask=mask).values(),
        symbols=None if name in ("fp16", "float32") else symbols,
    )


def make_coder(name: str, vector: Vector) -> Coder:
    """Make a codec by its name; ImportError where a peer is missing."""
    return hedgerow_coder(name, vector) if name in HEDGEROW else PEERS[name]()


def fixed_table(cases: Sequence[Case]) -> tuple[list[Row], dict[str, str]]:
    """Measure every codec on the first vector of each case; return rows, and why peers were skipped."""
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for case in cases:
        for name in [*HEDGEROW, *PEERS]:
            if name in skipped:
                continue
            try:
                coder = make_coder(name, case.vectors[0])
            except ImportError as error:
                skipped[name] = f"cannot be imported ({error})"
                print(f"skipped {name}: {skipped[name]}", file=sys.stderr, flush=True)
                continue
            rows.append(_measure(case, coder))
            print(line(rows[-1]), flush=True)
    return rows, skipped


def _measure(case: Case, coder: Coder) -> Row:
    vector, mask = case.vectors[0], case.mask
    blob, encode_s = timed(lambda: coder.encode(vector, mask))
    decoded, decode_s = timed(lambda: coder.decode(blob, mask))
    entropy = entropy_of(coder, blob, mask)
    ratio = snr_db(vector, decoded)
    return Row(
        case=case.name,
        codec=coder.name,
        num_bytes=len(blob),
        bits_per_parameter=8 * len(blob) / vector.size,
        ratio_to_entropy=len(blob) / entropy if entropy else None,
        snr_db=ratio if np.isfinite(ratio) else None,
        encode_mb_s=vector.nbytes / 1e6 / encode_s,
        decode_mb_s=vector.nbytes / 1e6 / decode_s,
    )


def timed(call: Callable[[], T], *, repeats: int = 3) -> tuple[T, float]:
    """Call a function some times; return what it returned and the median seconds."""
    results: list[T] = []
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
        results = [result]
    return results[0], statistics.median(seconds)


def line(row: Row) -> str:
    """Return a row as a line."""
    entropy = f"{row.ratio_to_entropy:8.3f}" if row.ratio_to_entropy is not None else f"{'-':>8}"
    ratio = f"{row.snr_db:6.1f}" if row.snr_db is not None else f"{'inf':>6}"
    return (
        f"{row.case:17} {row.codec:15} {row.num_bytes:9d} {row.bits_per_parameter:7.3f} {entropy} {ratio}"
        f" {row.encode_mb_s:8.1f} {row.decode_mb_s:8.1f}"
    )


def fixed_means(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return one line for each codec: bits of all cases together, means and medians of the rest."""
    means: list[dict[str, object]] = []
    for name in dict.fromkeys(row.codec for row in rows):
        mine = [row for row in rows if row.codec == name]
        entropies = [row.ratio_to_entropy for row in mine if row.ratio_to_entropy]
        ratios = [row.snr_db for row in mine if row.snr_db is not None]
        parameters = sum(8 * row.num_bytes / row.bits_per_parameter for row in mine)
        means.append(
            {
                "codec": name,
                "num_bytes": sum(row.num_bytes for row in mine),
                "bits_per_parameter": 8 * sum(row.num_bytes for row in mine) / parameters,
                "ratio_to_entropy": geometric_mean(entropies) if entropies else None,
                "snr_db": statistics.median(ratios) if ratios else None,
                "encode_mb_s": statistics.median(row.encode_mb_s for row in mine),
                "decode_mb_s": statistics.median(row.decode_mb_s for row in mine),
            }
        )
    return means
