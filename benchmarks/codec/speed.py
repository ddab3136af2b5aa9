"""Processor time and memory on an update of 11 million parameters, one thread, codecs taking turns."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.codec.cases import Case
from benchmarks.codec.codecs import decode, encode
from benchmarks.codec.fixed import HEDGEROW, PEERS, make_coder
from benchmarks.codec.measures import snr_db
from benchmarks.codec.memory import can_measure, peak_bytes
from benchmarks.codec.nnc import Nncodec, named_tensors, nncodec_coder, scale_for
from benchmarks.codec.peers import Vector

from hedgerow_codecs import Codec, DecodedUpdate, Mask, codec_from_config
from hedgerow_codecs.stages.compiled import compiled_loops, without_compiled_loops

ROUNDS = 7
_SPARSE = 0.01
# Its bits are written and read one by one in Python lists: it would take minutes and gigabytes.
_TOO_SLOW = "QSGD Elias"


def sparse_codec(vector: Vector, case: Case) -> tuple[Codec, float]:
    """Return the default codec at the step that leaves nearest to 1 % of the entries, and that share."""
    low, high = -2.0, 6.0
    tried: list[tuple[Codec, float]] = []
    for _ in range(8):
        middle = (low + high) / 2
        codec = codec_from_config({"codec_id": "deadzone", "step": 2.0**middle})
        share = encode(vector, mask=case.mask, codec=codec)[1].num_nonzero / vector.size
        tried.append((codec, share))
        low, high = (middle, high) if share > _SPARSE else (low, middle)
    return min(tried, key=lambda each: abs(math.log(max(each[1], 1e-9) / _SPARSE)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """nncodec without its trellis, at a step and the ratio that it gives."""

    options: dict[str, object]
    log2_step: float
    snr_db: float

    def tensors(self, case: Case) -> dict[str, Vector]:
        """Return what is to be encoded: tensors, scaled for the step."""
        vector = case.vectors[0]
        return named_tensors(case.mask, vector * scale_for(vector, self.log2_step), whole=False)


def at_ratio(package: Nncodec, case: Case, target_db: float, *, row_skipping: bool) -> Fast:
    """Return nncodec without its trellis, within 0.1 dB of a ratio or as near as eight trials come."""
    vector, step = case.vectors[0], 1.0
    options: dict[str, object] = {"use_dq": False, "row_skipping": row_skipping}
    tried: list[Fast] = []
    for _ in range(8):
        coder = nncodec_coder(package, trellis=False, log2_step=step, row_skipping=row_skipping)
        found = snr_db(vector, coder.decode(coder.encode(vector, case.mask), case.mask))
        tried.append(Fast(options=options, log2_step=step, snr_db=found))
        if abs(found - target_db) < 0.1:
            break
        step += (found - target_db) / 6.02
    return min(tried, key=lambda fast: abs(fast.snr_db - target_db))


def measure_speed(case: Case, package: Nncodec | None, *, rounds: int = ROUNDS) -> dict[str, object]:
    """Measure; return seconds by codec and direction, and the ratios.

    Of Hedgerow, all is timed: from a live vector to the frame, and from the frame to a live vector (and to
    the integers that a coordinator adds up). Of nncodec only its own functions, on tensors that are cut and
    scaled before; what it decodes to is not put together. Hedgerow decodes by compiled code where numba is
    installed, and by numpy alone beside it.
    """
    vector, mask = case.vectors[0], case.mask
    default = codec_from_config({"codec_id": "deadzone"})
    frame, decoded = encode(vector, mask=mask, codec=default)
    ratio = snr_db(vector, decoded.values())
    sparse, share = sparse_codec(vector, case)
    rested, sent = encode(vector, mask=mask, codec=sparse)
    zeros = sent.values()  # the same update, whose other 99 % are zero before it is encoded
    calls: dict[str, Callable[[], object]] = {
        "hedgerow encode": lambda: encode(vector, mask=mask, codec=default),
        "hedgerow decode": lambda: decode(frame, mask=mask).values(),
        "hedgerow decode to integers": lambda: decode(frame, mask=mask),
        "hedgerow decode, numpy alone": lambda: _by_numpy_alone(frame, mask).values(),
        "hedgerow decode to integers, numpy alone": lambda: _by_numpy_alone(frame, mask),
        "hedgerow 1 % encode": lambda: encode(vector, mask=mask, codec=sparse),
        "hedgerow 1 % decode": lambda: decode(rested, mask=mask).values(),
        "hedgerow 1 % given encode": lambda: encode(zeros, mask=mask, codec=sparse),
    }
    facts: dict[str, object] = {
        "parameters": vector.size,
        "compiled": compiled_loops(vector.size) is not None,
        "source": case.source,
        "hedgerow bytes": len(frame),
        "snr_db": ratio,
        "sparse share": share,
        "sparse bytes": len(rested),
    }
    if package is not None:
        setting = _fastest(package, case, ratio)
        tensors, options = setting.tensors(case), setting.options
        stream = package.encode(tensors, **options)
        calls["nncodec encode"] = lambda: package.encode(tensors, **options)
        calls["nncodec decode"] = lambda: package.decode(stream)
        facts |= {"nncodec bytes": len(stream), "nncodec snr_db": setting.snr_db, "nncodec options": options}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    waits: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        print(f"speed: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, call in calls.items():
            started, worked = time.perf_counter(), time.process_time()
            call()
            seconds[name].append(time.process_time() - worked)
            waits[name].append(time.perf_counter() - started)
    # The processor's time, and the least of all rounds: whoever else uses the machine can only make it more.
    least = {name: min(each) for name, each in seconds.items()}
    facts["seconds"] = least
    facts["median seconds"] = {name: statistics.median(each) for name, each in seconds.items()}
    facts["least seconds by the clock"] = {name: min(each) for name, each in waits.items()}
    facts["rounds"] = rounds
    facts["encode_vs_nncodec"] = _over(least, "nncodec encode", "hedgerow encode")
    facts["decode_vs_nncodec"] = _over(least, "nncodec decode", "hedgerow decode")
    facts["decode_numpy_vs_nncodec"] = _over(least, "nncodec decode", "hedgerow decode, numpy alone")
    facts["sparse_encode_speedup"] = _over(least, "hedgerow encode", "hedgerow 1 % given encode")
    facts["sparse_chosen_encode_speedup"] = _over(least, "hedgerow encode", "hedgerow 1 % encode")
    return facts


def _by_numpy_alone(frame: bytes, mask: Mask) -> DecodedUpdate:
    with without_compiled_loops():
        return decode(frame, mask=mask)


def _over(seconds: dict[str, float], slow: str, fast: str) -> float | None:
    return seconds[slow] / seconds[fast] if slow in seconds and fast in seconds else None


def _fastest(package: Nncodec, case: Case, ratio: float) -> Fast:
    """Return nncodec's fastest setting at a ratio: no trellis, and rows skipped or not."""
    tried = []
    for skipping in (True, False):
        setting = at_ratio(package, case, ratio, row_skipping=skipping)
        tensors = setting.tensors(case)
        started = time.perf_counter()
        package.decode(package.encode(tensors, **setting.options))
        tried.append((time.perf_counter() - started, setting))
    return min(tried, key=lambda each: each[0])[1]


def measure_memory(case: Case, path: Path, *, codecs: list[str]) -> dict[str, dict[str, float]]:
    """Return peak memory by codec: growth over the size of the float32 update, both ways."""
    if not can_measure():
        print("skipped memory: this system has no /proc/self/clear_refs", file=sys.stderr)
        return {}
    found: dict[str, dict[str, float]] = {}
    vector, mask = case.vectors[0], case.mask
    for name in codecs:
        if name == _TOO_SLOW:
            continue
        try:
            blob = make_coder(name, vector).encode(vector, mask)
        except ImportError:
            continue
        found[name] = {
            "encode": peak_bytes(name, path) / vector.nbytes,
            "decode": peak_bytes(name, path, blob=blob) / vector.nbytes,
        }
        print(
            f"memory, in sizes of the update: {name:16}"
            f" encode {found[name]['encode']:5.2f} decode {found[name]['decode']:5.2f}",
            flush=True,
        )
    return found


def all_codecs() -> list[str]:
    """Return the names of all codecs of the table of fixed settings."""
    return [*HEDGEROW, *PEERS]


def peak_ratio(memory: dict[str, dict[str, float]]) -> float | None:
    """Return the larger of both directions of the default codec."""
    return max(memory["deadzone"].values()) if "deadzone" in memory else None
