"""Compiled loops find what numpy finds, refuse what it refuses, and are never needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    DecodedUpdate,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    decode_frame,
    encode_frame,
)
from hedgerow_codecs.errors import CodecError, PayloadError
from hedgerow_codecs.stages import compiled
from hedgerow_codecs.stages.adaptive import Model
from hedgerow_codecs.stages.models import excess_model, index_model, level_model, magnitude_model, sign_model
from hedgerow_codecs.stages.rans import decode_symbols, encode_symbols, grid_shape

pytest.importorskip("numba")
MODELS = {
    "magnitudes": magnitude_model(),
    "indices": index_model(),
    "excesses": excess_model(7),
    "levels": level_model(),
    "signs": sign_model(),
}
BASE = bytes(16)
MANY = 1 << 23
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs-v1.json").read_text())


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled._State, "is_allowed", True)
    monkeypatch.setattr(compiled._State, "decoded", 0)


@pytest.fixture
def loaded(allowed: None) -> None:
    """Decode even the smallest sections by compiled code."""
    assert compiled.compiled_loops(MANY) is not None


def section(
    name: str, *, count: int, lanes: int, seed: int
) -> tuple[Model, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a model, bases, symbols, states and words; symbols fall steeply, as real ones do."""
    rng = np.random.default_rng(seed)
    model = MODELS[name]
    symbols = np.minimum(rng.geometric(0.6, count) - 1, model.alphabet - 1).astype(np.uint8)
    bases = rng.integers(0, model.prior.shape[0], count).astype(np.uint8)
    lanes = grid_shape(count, lanes)[1]
    stowed = rng.integers(0, 1 << 16, lanes).astype(np.uint16)
    states, words = encode_symbols(symbols, bases, model=model, lanes=lanes, stowed=stowed)
    return model, bases, symbols, states, words


def outcome(states: np.ndarray, words: np.ndarray, bases: np.ndarray, *, model: Model) -> tuple | str:
    """Return the symbols and what rode along, or the word for a refusal."""
    try:
        symbols, stowed = decode_symbols(states, words, bases, model=model)
    except PayloadError:
        return "refused"
    return symbols.tolist(), stowed.tolist()


@pytest.mark.usefixtures("loaded")
@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(MODELS)),
    lanes=st.integers(1, 600),
    steps=st.integers(1, 90),
    short=st.integers(0, 89),
    seed=st.integers(0, 99),
)
def test_symbols(name: str, lanes: int, steps: int, short: int, seed: int) -> None:
    count = max(lanes * steps - short % steps, 1)
    model, bases, symbols, states, words = section(name, count=count, lanes=min(lanes, count), seed=seed)
    found = outcome(states, words, bases, model=model)
    assert found[0] == symbols.tolist()
    with compiled.without_compiled_loops():
        assert outcome(states, words, bases, model=model) == found


@pytest.mark.usefixtures("loaded")
@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(MODELS)),
    lanes=st.integers(1, 40),
    damage=st.sampled_from(["shorter", "longer", "word", "state"]),
    place=st.integers(0, 10**6),
    bit=st.integers(0, 15),
)
def test_damage_is_answered_alike(name: str, lanes: int, damage: str, place: int, bit: int) -> None:
    model, bases, _, states, words = section(name, count=1500, lanes=lanes, seed=3)
    if damage == "shorter":
        words = words[: place % words.size]
    elif damage == "longer":
        words = np.append(words, words[: 1 + place % 40])
    elif damage == "word":
        words[place % words.size] ^= 1 << bit
    else:
        states[place % states.size] ^= 1 << bit
    found = outcome(states, words, bases, model=model)
    with compiled.without_compiled_loops():
        assert outcome(states, words, bases, model=model) == found


@pytest.mark.usefixtures("loaded")
def test_vectors() -> None:
    layout = Layout.from_bytes(bytes.fromhex(VECTORS["layout"]))
    packed = np.frombuffer(bytes.fromhex(VECTORS["live"]), np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=layout.num_parameters)
    mask, base = Mask(layout=layout, live=bits.astype(np.bool_)), bytes.fromhex(VECTORS["base"])
    for vector in VECTORS["updates"] + VECTORS["patterned"]:
        frame = bytes.fromhex(vector["frame"])
        decoded = decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=base)
        assert decoded.values().tobytes().hex() == vector["values"]
        for place in range(len(frame)):
            damaged = bytearray(frame)
            damaged[place] ^= 1 << place % 8
            with pytest.raises(CodecError):
                decode_frame(bytes(damaged), kind=FrameKind.UPDATE, mask=mask, base=base)


def large_update(codec_id: str) -> tuple[Mask, bytes]:
    spec = TensorSpec(name="w", shape=(1000, 700), kind="linear", prunable=True)
    mask = Mask.dense(Layout(tensors=(spec,)))
    values = np.random.default_rng(1).standard_t(2, mask.num_live).astype(np.float32)
    codec = codec_from_config({"codec_id": codec_id})
    return mask, encode_frame(values, kind=FrameKind.UPDATE, mask=mask, base=BASE, codec=codec)


def decoded_of(mask: Mask, frame: bytes) -> DecodedUpdate:
    return decode_frame(frame, kind=FrameKind.UPDATE, mask=mask, base=BASE)


@pytest.mark.parametrize("codec_id", ["deadzone", "trellis"])
def test_much_to_decode_loads_it(codec_id: str) -> None:
    mask, frame = large_update(codec_id)
    with compiled.without_compiled_loops():
        expected = decoded_of(mask, frame)
    compiled._State.decoded = 0
    decoded_of(mask, frame)
    assert compiled.compiled_loops() is None
    assert compiled.compiled_loops(MANY - compiled._State.decoded - 1) is None
    found = decoded_of(mask, frame)
    assert compiled.compiled_loops() is not None
    assert np.array_equal(found.positions, expected.positions)
    assert np.array_equal(found.codes, expected.codes)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiled._load.__wrapped__() is None


def test_a_numba_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What an import does then, as numba does with a numpy that is too new for it.
    monkeypatch.delattr("hedgerow_codecs.stages.numba_loops", raising=False)
    monkeypatch.setitem(sys.modules, "hedgerow_codecs.stages.numba_loops", None)
    assert compiled._load.__wrapped__() is None
    assert "numba is installed, but does not work here" in caplog.text


@pytest.mark.parametrize("damage", ["emptied", "garbage", "read-only"])
def test_a_cache_that_is_of_no_use(damage: str, tmp_path: Path) -> None:
    """What was compiled once lies in files, and those may be cut short by a power cut."""
    code = (
        "from hedgerow_codecs.stages.compiled import compiled_loops\n"
        "import numpy as np\n"
        f"print(compiled_loops({MANY}).find_nonzero(np.array([0, 3, 0, 1], np.uint8)).tolist())\n"
    )

    def run(cache: Path) -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    if damage == "read-only":
        (tmp_path / "file").touch()
        assert run(tmp_path / "file" / "cache") == "[1, 3]"
        return
    assert run(tmp_path) == "[1, 3]"
    files = [path for path in tmp_path.rglob("*.nb*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"" if damage == "emptied" else b"\x80\x04garbage" * 40)
    assert run(tmp_path) == "[1, 3]"
