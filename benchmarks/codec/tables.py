"""The rate table: bytes of Hedgerow and of nncodec at equal signal-to-noise ratio."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmarks.codec.cases import Case
from benchmarks.codec.codecs import hedgerow_curve
from benchmarks.codec.measures import geometric_mean
from benchmarks.codec.nnc import NncodecBytes
from benchmarks.codec.peers import peer_curve
from benchmarks.codec.rate import Point

# Mostly running statistics, whose few entries take fewer bytes than nncodec's own heads: shown, but no part
# of any mean, which it would flatter.
APART = ("resnet-stats/raw",)
CODECS = ("deadzone", "trellis")
TRELLIS_FROM_DB = 8.0
TARGETS_DB = (2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 24.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Bytes of all vectors of a case together, each at the same signal-to-noise ratio.

    `hedgerow` is the better one of its codecs with a step, and `codec` says which: ``trellis``, which takes
    longer to encode, is tried from `TRELLIS_FROM_DB` on.
    `trellis` and `plain` are nncodec's, `best` its fewest by any setting and with a threshold before it.
    `entropy` is the per-tensor zeroth-order entropy of Hedgerow's symbols in bytes. None means that a coder
    does not get there or was not measured.
    """

    case: str
    snr_db: float
    hedgerow: float | None
    trellis: float | None
    plain: float | None
    best: float | None
    entropy: float | None
    codec: str = "deadzone"

    @property
    def ratio(self) -> float | None:
        """Hedgerow's bytes over those of nncodec with its trellis."""
        return self.hedgerow / self.trellis if self.hedgerow and self.trellis else None

    @property
    def ratio_best(self) -> float | None:
        """Hedgerow's bytes over the fewest of nncodec."""
        return self.hedgerow / self.best if self.hedgerow and self.best else None

    @property
    def ratio_entropy(self) -> float | None:
        """Hedgerow's bytes over the entropy of its symbols."""
        return self.hedgerow / self.entropy if self.hedgerow and self.entropy else None

    def to_json(self) -> dict[str, object]:
        """Return the cell and its ratios."""
        return {
            **asdict(self),
            "ratio": self.ratio,
            "ratio_best": self.ratio_best,
            "ratio_entropy": self.ratio_entropy,
        }

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Cell:
        """Read what `to_json` returned."""
        return Cell(**{part.name: row[part.name] for part in fields(Cell)})


HEADER = (
    f"{'case':17} {'dB':>4} {'hedgerow':>9} {'nn trell.':>9} {'nn plain':>9} {'nn best':>9}"
    f"  {'/trellis':>8} {'/best':>6} {'/entropy':>8}  codec"
)


def row(cell: Cell) -> str:
    """Return a cell as a line under `HEADER`."""

    def whole(value: float | None) -> str:
        return f"{value:9.0f}" if value is not None else f"{'-':>9}"

    def share(value: float | None, width: int) -> str:
        return f"{value:{width}.3f}" if value is not None else f"{'-':>{width}}"

    return (
        f"{cell.case:17} {cell.snr_db:4g} {whole(cell.hedgerow)} {whole(cell.trellis)} {whole(cell.plain)}"
        f" {whole(cell.best)}"
        f"  {share(cell.ratio, 8)} {share(cell.ratio_best, 6)} {share(cell.ratio_entropy, 8)}"
        f"  {cell.codec}"
    )


def rate_table(
    cases: Iterable[Case],
    *,
    targets_db: Sequence[float],
    settings: Mapping[str, object],
    peer: NncodecBytes | None,
) -> list[Cell]:
    """Measure every case at every ratio; print each cell as it is known."""
    cells: list[Cell] = []
    for case in cases:
        curves = {
            codec_id: [
                hedgerow_curve(case, vector, settings=settings, codec_id=codec_id) for vector in case.vectors
            ]
            for codec_id in CODECS
        }
        for target in targets_db:
            tried = CODECS if target >= TRELLIS_FROM_DB else CODECS[:1]
            points = {codec_id: [curve.at(target) for curve in curves[codec_id]] for codec_id in tried}
            sizes = {codec_id: _bytes_of(found) for codec_id, found in points.items()}
            codec_id = min(tried, key=lambda name: sizes[name] or math.inf)
            cell = Cell(
                case=case.name,
                snr_db=target,
                hedgerow=sizes[codec_id],
                entropy=_total([point.entropy_bytes if point else None for point in points[codec_id]]),
                codec=codec_id,
                **_peer_bytes(peer, case, target),
            )
            print(row(cell), flush=True)
            cells.append(cell)
    return cells


def _peer_bytes(peer: NncodecBytes | None, case: Case, target: float) -> dict[str, float | None]:
    if peer is None:
        return {"trellis": None, "plain": None, "best": None}
    sizes = [peer.at(case, vector, target) for vector in case.vectors]

    return {
        "trellis": _total([size.get("trellis") for size in sizes]),
        "plain": _total([size.get("plain") for size in sizes]),
        "best": _total([min(size.values(), default=None) for size in sizes]),
    }


def peers_header(targets_db: Sequence[float]) -> str:
    """Return the head of the lines that `peer_rates` prints."""
    return f"{'case':17} {'codec':12}" + "".join(f"{target:>7g} dB" for target in targets_db)


def peer_rates(
    cases: Sequence[Case], *, targets_db: Sequence[float], names: Sequence[str]
) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Return bytes of the other peers at every ratio they reach, and why some were skipped."""
    rows: list[dict[str, object]] = []
    skipped: dict[str, str] = {}
    for case in cases:
        for name in names:
            if name in skipped:
                continue
            try:
                curves = [peer_curve(name, vector, case.mask) for vector in case.vectors]
            except ImportError as error:
                skipped[name] = f"cannot be imported ({error})"
                print(f"skipped {name}: {skipped[name]}", file=sys.stderr, flush=True)
                continue
            sizes: list[float | None] = []
            for target in targets_db:
                points = [curve.at(target) for curve in curves]
                sizes.append(_total([p.num_bytes if p is not None else None for p in points]))
                rows.append({"case": case.name, "codec": name, "snr_db": target, "num_bytes": sizes[-1]})
            shown = "".join(f"{size:10.0f}" if size is not None else f"{'-':>10}" for size in sizes)
            print(f"{case.name:17} {name:12}{shown}", flush=True)
    return rows, skipped


def _bytes_of(points: Sequence[Point | None]) -> float | None:
    return _total([point.num_bytes if point is not None else None for point in points])


def _total(sizes: Sequence[float | None]) -> float | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def rate_summary(cells: Sequence[Cell]) -> dict[str, float | None]:
    """Return geometric means and worst cells, `APART` left out; None where nothing was measured."""
    cells = [cell for cell in cells if cell.case not in APART]
    summary: dict[str, float | None] = {}
    for name, ratios in (
        ("bytes_vs_nncodec", [cell.ratio for cell in cells]),
        ("bytes_vs_nncodec_best", [cell.ratio_best for cell in cells]),
        ("bytes_vs_entropy", [cell.ratio_entropy for cell in cells]),
    ):
        known = [ratio for ratio in ratios if ratio is not None]
        missing = len(ratios) - len(known)
        if known and missing:
            print(f"{name}: {missing} of {len(ratios)} cells are not in it", file=sys.stderr)
        summary[name] = geometric_mean(known) if known else None
        summary[f"{name}_worst"] = max(known, default=None)
    return summary
