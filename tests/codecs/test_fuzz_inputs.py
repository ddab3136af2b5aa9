"""What the fuzzer found worth keeping, tried again: refused, or decoded to what stands up to checks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
if str(FUZZ) not in sys.path:
    sys.path.insert(0, str(FUZZ))

import frames  # noqa: E402  # needs the path above

from hedgerow_codecs.stages import compiled  # noqa: E402

INPUTS = [bytes.fromhex(line) for line in (FUZZ / "kept" / "frames.txt").read_text().split()]


def test_inputs_that_the_fuzzer_kept() -> None:
    """`attempt` raises where something is found."""
    became = {frames.attempt(data) for data in INPUTS}
    assert became >= {"refused", "update"}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(compiled._State, "is_allowed", True)
    assert compiled.compiled_loops(1 << 23) is not None


@pytest.mark.usefixtures("loaded")
def test_compiled_loops_agree_on_them() -> None:
    assert {frames.attempt(data) for data in INPUTS} >= {"refused", "update"}


@pytest.mark.usefixtures("loaded")
def test_a_compiled_loop_that_finds_something_else_would_be_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loops = compiled.compiled_loops()
    right = loops.decode_lanes  # type: ignore[union-attr]
    monkeypatch.setattr(loops, "decode_lanes", lambda *given, **named: right(*given, **named) ^ 1)
    frame = frames.SITUATIONS[0].frames[frames.CONFIGS.index({"codec_id": "deadzone", "step": 0.25})]
    with pytest.raises(frames.Finding, match="from compiled loops"):
        frames.attempt(bytes([0, frames.AS_IT_IS]) + frame)


def test_a_finding_would_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_CPU_S", -1.0)
    frame = frames.SITUATIONS[0].frames[0]
    with pytest.raises(frames.Finding, match="of processor time"):
        frames.attempt(bytes([0, frames.AS_IT_IS]) + frame)
