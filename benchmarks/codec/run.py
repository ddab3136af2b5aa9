"""The codec benchmark's command line: what is measured, and the report of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.codec.cases import Case, chosen
from benchmarks.codec.fixed import FIXED_HEADER, Row, fixed_means, fixed_table
from benchmarks.codec.nnc import Nncodec, NncodecBytes
from benchmarks.codec.peers import WITH_KNOB
from benchmarks.codec.plot import plot_rates
from benchmarks.codec.record import large_path, recorded, recorded_large
from benchmarks.codec.report import Report
from benchmarks.codec.speed import all_codecs, measure_memory, measure_speed, peak_ratio
from benchmarks.codec.tables import (
    HEADER,
    TARGETS_DB,
    Cell,
    peer_rates,
    peers_header,
    rate_summary,
    rate_table,
)
from benchmarks.codec.tiny import tiny_draws, tiny_summary

_QUICK_CASES = ("cnn/feedback", "mlp/raw", "gru/masked")
_QUICK_DB = (3.0, 12.0)
_PACKAGES = ("hedgerow", "numpy", "numba", "torch", "nncodec", "zstandard", "blosc2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    cache: Path
    data: Path | None
    cases: list[str] | None
    snr: tuple[float, ...]
    settings: Mapping[str, object]
    quick: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    started = time.monotonic()
    parser = _parser()
    given = parser.parse_args(arguments)
    folder = os.environ.get("HEDGEROW_DATA")
    if folder and not Path(folder).is_dir():
        parser.error(f"HEDGEROW_DATA names {folder}, which is not a folder")
    try:
        settings = {name: float(value) for name, _, value in (each.partition("=") for each in given.set)}
    except ValueError:
        parser.error(f"--set takes NAME=NUMBER, not {' '.join(given.set)}")
    options = Options(
        cache=given.cache,
        data=Path(folder) if folder else None,
        cases=given.cases or (list(_QUICK_CASES) if given.quick else None),
        snr=tuple(given.snr) if given.snr else (_QUICK_DB if given.quick else TARGETS_DB),
        settings=settings,
        quick=given.quick,
    )
    if options.data is None:
        _say("HEDGEROW_DATA is not set: models learn scikit-learn's digits, not the published table's data")
    try:
        cases = chosen(recorded(options.cache, data=options.data, wanted=options.cases), options.cases)
    except ValueError as error:
        _say(str(error))
        return 2
    try:
        peer = _nncodec_bytes(options.cache)
        report = Report.open(given.json, about=_about(cases, options, peer), resume=given.resume)
    except ValueError as error:
        _say(str(error))
        return 2
    _rates(report, cases, options, peer)
    if not given.rate_only:
        _everything_else(report, cases, options)
        report.content["summary"] |= _speed_summary(report.content)
    report.write()
    print("\n" + json.dumps({"summary": report.content["summary"]}, indent=2))
    if given.plot is not None:
        plot_rates({"peers": [], **report.content}, given.plot)
    _say(f"took {time.monotonic() - started:.0f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the file of --json where a run was cut off"
    )
    parser.add_argument("--plot", type=Path, help="draw rate against signal-to-noise ratio (.png, .svg)")
    parser.add_argument("--quick", action="store_true", help="few cases and ratios, under two minutes")
    parser.add_argument(
        "--rate-only", action="store_true", help="only the table of bytes at equal distortion"
    )
    parser.add_argument("--cases", nargs="+", metavar="PART", help="of the names of cases: cnn, /raw")
    parser.add_argument("--snr", type=float, nargs="+", metavar="DB")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="settings of the codec")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "hedgerow/benchmarks-codec",
        help="where updates and nncodec's bytes are kept",
    )
    return parser


def _nncodec_bytes(cache: Path) -> NncodecBytes | None:
    try:
        return NncodecBytes.open(cache)
    except ImportError as error:
        _say(f"skipped nncodec: {error}")
        return None


def _about(cases: Sequence[Case], options: Options, peer: NncodecBytes | None) -> dict[str, object]:
    """Return what the numbers depend on; a run goes on with a report only where it is the same."""
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "nncodec_of_table": peer.version if peer else None,
        "snr_db": list(options.snr),
        "settings": dict(options.settings),
        "sources": {case.name: case.source for case in cases},
        "parameters": {case.name: sum(vector.size for vector in case.vectors) for case in cases},
    }


def _rates(report: Report, cases: Sequence[Case], options: Options, peer: NncodecBytes | None) -> None:
    print(HEADER, flush=True)

    def measure(case: Case) -> list[dict[str, object]]:
        cells = rate_table([case], targets_db=options.snr, settings=options.settings, peer=peer)
        return [cell.to_json() for cell in cells]

    cells = report.rows("cells", cases, measure)
    report.content["summary"] = rate_summary([Cell.from_json(cell) for cell in cells])


def _everything_else(report: Report, cases: Sequence[Case], options: Options) -> None:
    skipped: dict[str, str] = report.content.setdefault("skipped", {})

    def rates(case: Case) -> list[dict[str, object]]:
        rows, missing = peer_rates([case], targets_db=options.snr, names=list(WITH_KNOB))
        skipped.update(missing)
        return rows

    def fixed(case: Case) -> list[dict[str, object]]:
        rows, missing = fixed_table([case])
        skipped.update(missing)
        return [asdict(row) for row in rows]

    print(f"\n{peers_header(options.snr)}", flush=True)
    report.rows("peers", cases, rates)
    print(f"\n{FIXED_HEADER}", flush=True)
    rows = [Row(**row) for row in report.rows("fixed", cases, fixed)]
    report.content["fixed_means"] = fixed_means(rows)
    report.once("tiny", lambda: _tiny(cases))
    if options.quick:
        _say("skipped speed and memory: --quick leaves them out")
        report.content |= {"speed": None, "memory": None}
        return
    large = recorded_large(options.cache, data=options.data)
    try:
        package = Nncodec()
    except ImportError:
        package = None
    speed = report.once("speed", lambda: measure_speed(large, package))
    print("\nspeed:", json.dumps(speed, indent=1), "\n", flush=True)
    path = large_path(options.cache, data=options.data)
    report.once("memory", lambda: measure_memory(large, path, codecs=all_codecs()))


def _tiny(cases: Sequence[Case]) -> dict[str, object]:
    draws = tiny_draws(cases)
    print("\ntiny:", json.dumps(tiny_summary(draws)), flush=True)
    return {**tiny_summary(draws), "each": [{**asdict(d), "ratio": d.ratio} for d in draws]}


def _speed_summary(report: Mapping[str, object]) -> dict[str, object]:
    speed, tiny, memory = (_as_dict(report[name] or {}) for name in ("speed", "tiny", "memory"))
    summary: dict[str, object] = {}
    for name in (
        "encode_vs_nncodec",
        "decode_vs_nncodec",
        "decode_numpy_vs_nncodec",
        "sparse_encode_speedup",
        "sparse_chosen_encode_speedup",
    ):
        summary[name] = speed.get(name)
        if speed and summary[name] is None:
            _say(f"{name} is null: nncodec is not installed")
    return {
        **summary,
        "peak_memory_ratio": peak_ratio(memory),
        "tiny_vs_entropy_mean": tiny["all"]["mean"],
        "tiny_vs_entropy_max": tiny["all"]["max"],
    }


def _as_dict(value: object) -> dict[str, dict[str, float]]:
    assert isinstance(value, dict)
    return value


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [row.partition(":")[2].strip() for row in lines if row.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _say(sentence: str) -> None:
    print(f"benchmarks.codec: {sentence}", file=sys.stderr, flush=True)
