"""What the fuzzer found worth keeping, tried again: refused, or decoded to what stands up to checks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
if str(FUZZ) not in sys.path:
    sys.path.insert(0, str(FUZZ))

import frames  # noqa: E402  # needs the path above

INPUTS = [bytes.fromhex(line) for line in (FUZZ / "kept" / "frames.txt").read_text().split()]


def test_inputs_that_the_fuzzer_kept() -> None:
    """`attempt` raises where something is found."""
    became = {frames.attempt(data) for data in INPUTS}
    assert became >= {"refused", "update"}


def test_a_finding_would_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_CPU_S", -1.0)
    frame = frames.SITUATIONS[0].frames[0]
    with pytest.raises(frames.Finding, match="of processor time"):
        frames.attempt(bytes([0, frames.AS_IT_IS]) + frame)
