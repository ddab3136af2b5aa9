"""Small updates: whole frames against the entropy of their symbols, over many draws from recorded updates.

A draw has about 5,000 live weights of which 2 % get a code. It is either a *block*, whole rows of one tensor
as a tensor of their own, or *scattered*, entries of a whole model under a mask that leaves 5,000 at random.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from benchmarks.codec.cases import Case
from benchmarks.codec.codecs import encode
from benchmarks.codec.measures import dense_codes, entropy_bytes
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask, codec_from_config

LIVE = 5000
_SHARE = 0.02
_DRAWS = 3
_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A small update: where it is from, its frame and the entropy of its codes, both in bytes."""

    case: str
    form: str
    live: int
    nonzero: int
    frame: int
    entropy: float

    @property
    def ratio(self) -> float:
        """Frame over entropy."""
        return self.frame / self.entropy


def tiny_draws(cases: Sequence[Case]) -> list[Draw]:
    """Measure draws from every vector; those that no step brings near 2 % are left out."""
    draws: list[Draw] = []
    for case in cases:
        for vector in case.vectors:
            for form, mask, values in _forms(case, vector):
                draw = _at_share(case.name, form, mask, values)
                if draw is not None:
                    draws.append(draw)
    return draws


def _forms(case: Case, vector: NDArray[np.float32]) -> Iterator[tuple[str, Mask, NDArray[np.float32]]]:
    rng = np.random.default_rng(_SEED)
    flat = case.mask.scatter(vector)
    layout = Layout(tensors=tuple(replace(tensor, prunable=True) for tensor in case.mask.layout.tensors))
    candidates = np.flatnonzero(case.mask.live)
    # Tensors with whole rows in a block, and enough of them; pruned ones have no rows to cut.
    blocks = [t for t, length in enumerate(case.mask.lengths) if _has_block(layout, t, length)]
    for _ in range(_DRAWS):
        live = np.zeros(flat.size, np.bool_)
        live[rng.choice(candidates, LIVE, replace=False)] = True
        mask = Mask(layout=layout, live=live)
        yield "scattered", mask, mask.gather(flat)
        if blocks:
            number = int(rng.choice(blocks))
            tensor, start = layout.tensors[number], layout.offsets[number]
            width = tensor.size // tensor.shape[0]
            rows = round(LIVE / width)
            first = start + int(rng.integers(tensor.shape[0] - rows + 1)) * width
            block = Layout(tensors=(replace(tensor, shape=(rows, *tensor.shape[1:])),))
            yield "block", Mask.dense(block), flat[first : first + rows * width]


def _has_block(layout: Layout, number: int, length: int) -> bool:
    tensor = layout.tensors[number]
    if length < tensor.size or tensor.size < LIVE or len(tensor.shape) < 2:
        return False
    width = tensor.size // tensor.shape[0]
    return 1 <= round(LIVE / width) <= tensor.shape[0] and abs(round(LIVE / width) * width / LIVE - 1) < 0.1


def _at_share(case: str, form: str, mask: Mask, values: NDArray[np.float32]) -> Draw | None:
    """Return the draw at the step whose share of codes is nearest to 2 %, if that is from 1.8 to 2.2 %."""
    rms = math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))
    if rms == 0:
        return None
    low, high = -3.0, 6.0
    found: list[Draw] = []
    for _ in range(14):
        middle = (low + high) / 2
        # Scaled, as steps are in the table of rates: any step, not four an octave.
        scaled = (values / np.float64(2.0**middle * rms)).astype(np.float32)
        codec = codec_from_config({"codec_id": "deadzone", "step": 2.0**middle})
        frame, decoded = encode(scaled, mask=mask, codec=codec)
        codes = dense_codes(decoded)
        assert codes is not None
        if decoded.num_nonzero:
            entropy = entropy_bytes(codes, lengths=[codes.size])
            found.append(
                Draw(
                    case=case,
                    form=form,
                    live=codes.size,
                    nonzero=decoded.num_nonzero,
                    frame=len(frame),
                    entropy=entropy,
                )
            )
        low, high = (middle, high) if decoded.num_nonzero > _SHARE * codes.size else (low, middle)
    near = min(found, key=lambda draw: abs(draw.nonzero / draw.live - _SHARE), default=None)
    return near if near is not None and abs(near.nonzero / near.live - _SHARE) <= 0.002 else None


def tiny_summary(draws: Sequence[Draw]) -> dict[str, object]:
    """Return mean and largest ratio, of all draws and by form."""
    summary: dict[str, object] = {"draws": len(draws)}
    for form in ("all", "block", "scattered"):
        ratios = [draw.ratio for draw in draws if form in ("all", draw.form)]
        summary[form] = {
            "draws": len(ratios),
            "mean": statistics.mean(ratios) if ratios else None,
            "max": max(ratios, default=None),
        }
    return summary
