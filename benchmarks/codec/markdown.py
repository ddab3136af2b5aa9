"""Writes a report's tables into the document that publishes them.

python -m benchmarks.codec.markdown codec.json docs/benchmarks/codec.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- numbers: written by benchmarks.codec.markdown -->"
END = "<!-- end of numbers -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace what is between the two marks of the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec.markdown", description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("document", type=Path)
    options = parser.parse_args(arguments)
    text = options.document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{options.document} has no lines {BEGIN!r} and {END!r}", file=sys.stderr)
        return 2
    tables = numbers(json.loads(options.report.read_text()))
    options.document.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
    return 0


def numbers(report: Mapping[str, Any]) -> str:
    """Return a full report as Markdown: summary, rates, all codecs, speed and memory, small updates."""
    return "\n\n".join(
        [_machine(report), _summary(report), _rates(report), _codecs(report), _speed(report), _tiny(report)]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column is words, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _machine(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    machine = report["machine"]
    return f"Measured on one of {machine['cores']} cores of {machine['processor']}; {versions}."


def _summary(report: Mapping[str, Any]) -> str:
    summary = report["summary"]
    meanings = (
        ("bytes_vs_nncodec", "bytes over nncodec's with its trellis, geometric mean"),
        ("bytes_vs_nncodec_worst", "the same, worst cell"),
        ("bytes_vs_nncodec_best", "bytes over nncodec's best with and without trellis and threshold"),
        ("bytes_vs_nncodec_best_worst", "the same, worst cell"),
        ("bytes_vs_entropy", "bytes over the per-tensor entropy of the codes, geometric mean"),
        ("encode_vs_nncodec", "times as fast as nncodec's fastest setting, encoding"),
        ("decode_vs_nncodec", "the same, decoding, with numba where it is installed"),
        ("decode_numpy_vs_nncodec", "the same, decoding by numpy alone"),
        (
            "sparse_encode_speedup",
            "an update that is zero but for 1 %: times as fast as the default, encoding",
        ),
        ("sparse_chosen_encode_speedup", "the same where the codec leaves 1 % of an update"),
        ("peak_memory_ratio", "peak memory over the size of the update"),
        ("tiny_vs_entropy_mean", "small updates: frame over entropy, mean"),
        ("tiny_vs_entropy_max", "the same, worst draw"),
    )
    rows = [[f"{meaning} (`{name}`)", _number(summary.get(name), 3)] for name, meaning in meanings]
    return "## Summary\n\n" + table(["", ""], rows)


def _rates(report: Mapping[str, Any]) -> str:
    head = [
        "case",
        "dB",
        "Hedgerow",
        "nncodec trellis",
        "plain",
        "best",
        "/ trellis",
        "/ best",
        "/ entropy",
        "by",
    ]
    rows = [
        [
            cell["case"],
            f"{cell['snr_db']:g}",
            *[_number(cell[name], 0) for name in ("hedgerow", "trellis", "plain", "best")],
            *[_number(cell[name], 3) for name in ("ratio", "ratio_best", "ratio_entropy")],
            cell["codec"],
        ]
        for cell in report["cells"]
    ]
    return "## Bytes at equal signal-to-noise ratio\n\n" + table(head, rows)


def _codecs(report: Mapping[str, Any]) -> str:
    memory = report["memory"] or {}
    head = ["codec", "bytes", "bits each", "/ entropy", "dB", "encode MB/s", "decode MB/s"]
    head += ["peak encoding", "peak decoding"]
    rows = []
    for mean in report["fixed_means"]:
        peaks = memory.get(mean["codec"], {})
        rows.append(
            [
                mean["codec"],
                _number(mean["num_bytes"], 0),
                _number(mean["bits_per_parameter"], 3),
                _number(mean["ratio_to_entropy"], 3),
                _number(mean["snr_db"], 1),
                _number(mean["encode_mb_s"], 0),
                _number(mean["decode_mb_s"], 0),
                _number(peaks.get("encode"), 2),
                _number(peaks.get("decode"), 2),
            ]
        )
    skipped = "".join(f"\n\nSkipped: {name}, {reason}." for name, reason in report["skipped"].items())
    return "## Every codec at one setting\n\n" + table(head, rows) + skipped


def _speed(report: Mapping[str, Any]) -> str:
    speed = report["speed"]
    if not speed:
        return "## Speed\n\nNot measured."
    others = (speed["median seconds"], speed["least seconds by the clock"])
    rows = [
        [name, f"{seconds:.3f}", *(f"{other[name]:.3f}" for other in others)]
        for name, seconds in speed["seconds"].items()
    ]
    facts = (
        f"{speed['parameters']:,} parameters; Hedgerow {speed['hedgerow bytes']:,} bytes at"
        f" {speed['snr_db']:.2f} dB, at {100 * speed['sparse share']:.2f} % codes {speed['sparse bytes']:,}"
    )
    if "nncodec bytes" in speed:
        facts += f"; nncodec {speed['nncodec bytes']:,} bytes at {speed['nncodec snr_db']:.2f} dB"
    return f"## Speed\n\n{facts}.\n\n" + table(
        ["seconds", f"processor, least of {speed['rounds']}", "processor, median", "clock, least"], rows
    )


def _tiny(report: Mapping[str, Any]) -> str:
    tiny = report["tiny"]
    rows = [
        [form, str(tiny[form]["draws"]), _number(tiny[form]["mean"], 3), _number(tiny[form]["max"], 3)]
        for form in ("all", "block", "scattered")
    ]
    return "## Small updates\n\n" + table(["", "draws", "mean frame / entropy", "worst"], rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
