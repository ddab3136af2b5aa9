"""A reader written from SPEC.md in plain Python, symbol by symbol, beside the fast one."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec, codec_from_config, encode_mask
from hedgerow_codecs.stages.models import excess_model, index_model, level_model, magnitude_model, sign_model
from hedgerow_codecs.stages.pattern import fit_patterns
from hedgerow_codecs.stages.rans import decode_symbols, encode_symbols, grid_shape
from hedgerow_codecs.stages.reader import Reader, write_section


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        assert self.place + count <= len(self.data)
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        number, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number


class Bits:
    def __init__(self, data: Bytes) -> None:
        self.data, self.byte, self.left = data, 0, 0

    def take(self) -> int:
        if not self.left:
            (self.byte,), self.left = self.data.take(1), 8
        bit, self.byte, self.left = self.byte & 1, self.byte >> 1, self.left - 1
        return bit


def frequencies(seen: list[int], prior: list[int]) -> list[int]:
    scores = [4096 * k + p for k, p in zip(seen, prior, strict=True)]
    f = [1 + q * (4096 - len(scores)) // sum(scores) for q in scores]
    f[scores.index(max(scores))] += 4096 - sum(f)
    return f


def section(data: Bytes, bases: list[int], model: dict, lanes: int | None, cargo: bytearray) -> list[int]:
    count = len(bases)
    lanes = (1 if count <= 16384 else -(-count // 1024)) if lanes is None else lanes
    steps = -(-count // lanes)
    assert steps <= (131072 if lanes == 1 else 16384)
    lanes = -(-count // steps)
    num_words = data.varint()
    lengths = [nibble + 16 for pair in data.take(-(-lanes // 2)) for nibble in (pair & 15, pair >> 4)][:lanes]
    packed = int.from_bytes(data.take(-(-sum(lengths) // 8)), "little")
    x = []
    for length in lengths:
        x.append(1 << length | packed % (1 << length))
        packed >>= length
    assert packed == 0
    words = list(struct.unpack(f"<{num_words}H", data.take(2 * num_words)))
    history = [0] * lanes
    symbols: list[list[int]] = [[] for _ in range(lanes)]
    seen: dict = {}
    tables: dict = {}
    rebuild, pending = 16, []
    for step in range(steps):
        if step == rebuild:
            rebuild += rebuild // 2
            tables = {}
            for context, symbol in pending:
                seen.setdefault(context, [0] * model["alphabet"])[symbol] += 1
            pending = []
        for lane in range(lanes):
            if lane * steps + step >= count:
                continue
            context = (bases[lane * steps + step], history[lane])
            if context not in tables:
                prior = [model["prior"](*context, s) for s in range(model["alphabet"])]
                tables[context] = frequencies(seen.get(context, [0] * model["alphabet"]), prior)
            slot, start, symbol = x[lane] % 4096, 0, 0
            while slot >= start + tables[context][symbol]:
                start += tables[context][symbol]
                symbol += 1
            x[lane] = tables[context][symbol] * (x[lane] // 4096) + slot - start
            if x[lane] < 2**16:
                x[lane] = x[lane] * 2**16 + words.pop(0)
            history[lane] = model["history"](history[lane], symbol)
            symbols[lane].append(symbol)
            if lane % max(lanes // 256, 1) == 0:
                pending.append((context, symbol))
    assert not words
    for state in x:
        assert state >> 16 == 1
        cargo += struct.pack("<H", state & 0xFFFF)
    return [symbol for lane in symbols for symbol in lane]


def magnitude_prior(base: int, history: int, symbol: int) -> int:
    octave = base - 8 + (2 if history >= 8 else 1 if history else 0)
    if octave < 0:
        nonzero = 5 * 65536 // 2 ** (3 - octave)
        ones, twos = 5 * nonzero // 8, nonzero // 4
        return [65536 - nonzero, ones, twos, nonzero - ones - twos][symbol]
    rest, weights = 65536, []
    for _ in range(3):
        weights.append(rest // (1 + 2**octave))
        rest -= weights[-1]
    return [*weights, rest][symbol]


LEVELS = {
    "alphabet": 16,
    "history": lambda h, s: s,
    "prior": lambda base, h, s: max(64, 2**14 // 4 ** abs(s - h)),
}
MAGNITUDES = {
    "alphabet": 4,
    "history": lambda h, s: 4 * s + h // 4,
    "prior": magnitude_prior,
}


def index_prior(base: int, history: int, symbol: int) -> int:
    a, b = history % 8 // 2, history % 2
    history = 8 if a > 1 else 1 if a or b else 0
    if symbol < 3:
        return magnitude_prior(base, history, symbol)
    many = magnitude_prior(base, history, 3)
    return many // 2 if symbol == 4 else many - many // 2


def index_history(h: int, s: int) -> int:
    q, r, a = h // 16, h // 8 % 2, h % 8 // 2
    return 16 * (s % 2 ^ r) + 8 * q + 2 * min(s, 3) + (a > 1)


INDICES = {"alphabet": 5, "history": index_history, "prior": index_prior}
EXCESSES = {
    "history": lambda h, s: 0,
    "prior": lambda base, h, s: max(1, 65536 // 2 ** min(s + 1, 15)),
}
SIGNS = {
    "alphabet": 2,
    "history": lambda h, s: (2 * h + s) % 16,
    "prior": lambda base, h, s: 32768,
}


def classes(data: Bytes, mask: Mask, cargo: bytearray) -> tuple[list[int], list[list[int]]]:
    tensors = mask.layout.tensors
    modes = int.from_bytes(data.take((2 * len(tensors) + 7) // 8), "little")
    shapes, sizes, bases = [], [], []
    for i, tensor in enumerate(tensors):
        rows, columns = tensor.shape[:2] if len(tensor.shape) > 1 else (1, 1)
        by_row, by_column = modes >> 2 * i & 1, modes >> 2 * i + 1 & 1
        shapes.append((rows, columns, tensor.size // (rows * columns)))
        sizes.append((rows if by_row else 1, columns if by_column and columns > 1 else 0))
        bases += [0] * sizes[-1][0] + [1] * sizes[-1][1]
    if len(bases) < 32:
        pairs = data.take((len(bases) + 1) // 2)
        levels = [nibble for pair in pairs for nibble in (pair & 15, pair >> 4)][: len(bases)]
    else:
        levels = section(data, bases, LEVELS, None, cargo)
    found, of_all_columns = [], []
    for (rows, columns, cell), (num_rows, num_columns) in zip(shapes, sizes, strict=True):
        of_rows, of_columns = levels[:num_rows], levels[num_rows : num_rows + num_columns]
        levels = levels[num_rows + num_columns :]
        of_rows = of_rows if num_rows == rows else of_rows * rows
        of_columns = of_columns or [8] * columns
        of_all_columns.append(of_columns)
        for r in of_rows:
            for c in of_columns:
                found += [max(1, min(13, r + c - 8)) if r and c else 0] * cell
    return [c for c, live in zip(found, mask.live, strict=True) if live], of_all_columns


def patterns(data: Bytes, mask: Mask, columns: list[list[int]]) -> list[int]:
    """Return the bit of each live entry's place."""
    bits, found = Bits(data), []
    told = [bits.take() for _ in mask.layout.tensors]
    assert not bits.byte
    bits = Bits(data)
    for tensor, has_one, levels in zip(mask.layout.tensors, told, columns, strict=True):
        if not has_one:
            found += [0] * tensor.size
            continue
        assert len(tensor.shape) > 1
        assert tensor.shape[0] > 1
        width = tensor.size // tensor.shape[0]
        pattern = [bits.take() if levels[i // (width // tensor.shape[1])] else 0 for i in range(width)]
        found += pattern * tensor.shape[0]
    assert not bits.byte
    return [c for c, live in zip(found, mask.live, strict=True) if live]


def coded_integers(data: Bytes, mask: Mask, *, signed: bool = True, trellis: bool = False) -> list[int]:
    lanes = data.varint()
    if lanes == 0:
        return [0] * mask.num_live
    cargo = bytearray()
    of_entries, columns = classes(data, mask, cargo)
    bases = [c - 1 for c in of_entries if c]
    magnitudes = section(data, bases, INDICES if trellis else MAGNITUDES, lanes, cargo)
    large = [i for i, m in enumerate(magnitudes) if m >= 3]
    steps = -(-len(bases) // lanes)
    quantizer = [
        sum(magnitudes[j] for j in range(i - 1, i - i % steps - 1, -2)) % 2 for i in range(len(bases))
    ]
    buckets = []
    if len(large) >= 32:
        model = {**EXCESSES, "alphabet": data.take(1)[0]}
        buckets = section(data, [bases[i] for i in large], model, None, cargo)
    data.data, data.place, stowed = bytes(cargo) + data.data[data.place :], 0, len(cargo)
    count = sum(m > 0 for m in magnitudes)
    coded = signed and count >= 128
    signs = [0] * count
    if coded:
        told = [i for i, c in enumerate(of_entries) if c]
        of_places = patterns(data, mask, columns)
        c = [of_places[i] for i, m in zip(told, magnitudes, strict=True) if m]
        relations = [
            sum(2 ** (j - 1) for j in (1, 2, 3) if j <= i and c[i] != c[i - j]) for i in range(count)
        ]
        lanes = 1 if count <= 16384 else -(-count // 512)
        raw = bytearray()
        symbols = section(data, relations[16 * lanes :], SIGNS, lanes, raw)
        raw += data.take(2 * lanes - len(raw))
        signs = [byte >> place & 1 for byte in raw for place in range(8)] + symbols
        signs = [sign ^ of_place for sign, of_place in zip(signs, c, strict=True)]
    bits = Bits(data)
    if signed and not coded:
        signs = [bits.take() for _ in range(count)]
    if len(large) < 32:
        for _ in large:
            buckets.append(0)
            while bits.take():
                buckets[-1] += 1
    for i, b in zip(large, buckets, strict=True):
        k = max((b - 4) // 2 + 1, 0)
        low = sum(bits.take() << place for place in range(k))
        excess = b if b < 4 else ((2 + b % 2) << k) + low
        magnitudes[i] += 2 * excess if trellis else excess
    if trellis:
        magnitudes = [2 * k - (k > 0 and q) for k, q in zip(magnitudes, quantizer, strict=True)]
    data.place = max(data.place, stowed)
    negative = iter(signs)
    codes = iter([-m if m and next(negative) else m for m in magnitudes])
    return [next(codes) if c else 0 for c in of_entries]


@pytest.mark.parametrize(("count", "lanes"), [(1, 1), (900, 1), (900, 7), (5000, 40), (9000, 600)])
def test_sections_read_the_same_from_the_specification(count: int, lanes: int) -> None:
    rng = np.random.default_rng(13)
    models = (
        (level_model(), LEVELS, 2),
        (magnitude_model(), MAGNITUDES, 13),
        (index_model(), INDICES, 13),
        (excess_model(9), {**EXCESSES, "alphabet": 9}, 13),
        (sign_model(), SIGNS, 8),
    )
    for model, literal, num_bases in models:
        bases = rng.integers(0, num_bases, count).astype(np.uint8)
        symbols = np.minimum(rng.geometric(0.4 + bases / 40) - 1, literal["alphabet"] - 1).astype(np.uint8)
        used = grid_shape(count, lanes)[1]
        stowed = rng.integers(0, 2**16, used).astype(np.uint16)
        data = write_section(*encode_symbols(symbols, bases, model=model, lanes=used, stowed=stowed))
        cargo = bytearray()
        assert section(Bytes(data), bases.tolist(), literal, lanes, cargo) == symbols.tolist()
        assert bytes(cargo) == stowed.astype("<u2").tobytes()
        found, carried = decode_symbols(*Reader(data).section(lanes=used), bases, model=model)
        assert np.array_equal(found, symbols)
        assert np.array_equal(carried, stowed)


def model_of(rng: np.random.Generator, density: float) -> Mask:
    layout = Layout(
        tensors=(
            TensorSpec(name="conv.weight", shape=(8, 3, 3, 3), kind="conv", prunable=True),
            TensorSpec(name="conv.bias", shape=(8,), kind="bias", prunable=False),
            TensorSpec(name="fc.weight", shape=(40, 60), kind="linear", prunable=True),
            TensorSpec(name="scale", shape=(), kind="other", prunable=False),
        )
    )
    return Mask(layout=layout, live=(rng.random(layout.num_parameters) < density) | ~layout.prunable())


@pytest.mark.parametrize("codec_id", ["deadzone", "trellis"])
def test_many_signs_read_the_same_from_the_specification(codec_id: str) -> None:
    layout = Layout(tensors=(TensorSpec(name="w", shape=(200, 150), kind="linear", prunable=True),))
    mask = Mask.dense(layout)
    values = np.random.default_rng(15).normal(size=30_000).astype(np.float32)
    codec = codec_from_config({"codec_id": codec_id, "step": 0.5})
    payload = codec.encode(values, mask=mask)
    decoded = codec.decode(payload, mask=mask)
    assert decoded.num_nonzero > 16_384
    codes = np.zeros(30_000, np.int32)
    codes[decoded.positions] = decoded.codes
    assert coded_integers(Bytes(payload), mask, trellis=codec_id == "trellis") == codes.tolist()


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_patterns_read_the_same_from_the_specification(density: float) -> None:
    rng = np.random.default_rng(16)
    mask = model_of(rng, density)
    flat = np.zeros(mask.layout.num_parameters)
    # The rows all point along one pattern or against it; resting columns have no place in it.
    rows, columns = rng.normal(size=(40, 1)), rng.normal(size=(1, 60)) * (rng.random(60) < 0.8)
    flat[224:2624] = (rows * columns).reshape(-1)
    flat[:216] = rng.normal(size=216)
    codec = codec_from_config({"codec_id": "deadzone", "step": 0.25})
    payload = codec.encode(mask.gather(flat.astype(np.float32)), mask=mask)
    decoded = codec.decode(payload, mask=mask)
    found = fit_patterns(decoded.positions, decoded.codes, mask=mask).of_tensors
    assert found[2] is not None
    assert set(np.flatnonzero(found[2])) <= set(np.flatnonzero(columns))
    codes = coded_integers(Bytes(payload), mask)
    assert [c for c in codes if c] == decoded.codes.tolist()
    assert np.flatnonzero(codes).tolist() == decoded.positions.tolist()
    scattered = np.where(rng.random(flat.size) < 0.5, flat, -flat).astype(np.float32)
    saved = len(codec.encode(mask.gather(scattered), mask=mask)) - len(payload)
    assert saved * 8 > 0.5 * decoded.num_nonzero if density == 1 else saved > 0


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize(
    "config",
    [
        {"codec_id": "deadzone", "step": 2.0},
        {"codec_id": "deadzone", "step": 0.1},
        {"codec_id": "trellis"},
        {"codec_id": "trellis", "step": 0.05},
        {"codec_id": "uniform", "bits": 12},
        {"codec_id": "topk", "fraction": 0.03, "bits": 1},
        {"codec_id": "topk", "fraction": 0.001, "bits": 4},
    ],
    ids=str,
)
def test_payloads_read_the_same_from_the_specification(config: dict, density: float) -> None:
    rng = np.random.default_rng(11)
    mask = model_of(rng, density)
    rows, columns = rng.random((40, 1)) ** 4, rng.random((1, 60)) ** 4
    flat = rng.standard_t(2, mask.layout.num_parameters)
    flat[224:2624] *= (rows * columns).reshape(-1)
    codec = codec_from_config(config)
    payload = codec.encode(mask.gather(flat.astype(np.float32)), mask=mask)
    decoded = codec.decode(payload, mask=mask)
    data = Bytes(payload)
    codes = coded_integers(data, mask, trellis=config["codec_id"] == "trellis")
    assert decoded.codes.size > 0
    assert np.flatnonzero(codes).tolist() == decoded.positions.tolist()
    assert [c for c in codes if c] == decoded.codes.tolist()

    indices = struct.unpack(f"<{len(data.data[data.place :]) // 2}H", data.data[data.place :])
    of_tensors = indices * 4 if len(indices) == 1 else indices[1:]
    assert len(of_tensors) == 4
    assert len(indices) == 1 or indices[0] == 65535
    steps = [0.0 if g == 65535 else (4 + g % 4) * 2.0 ** (g // 4 - 149) for g in of_tensors]
    assert decoded.steps.tolist() == steps


def test_masks_read_the_same_from_the_specification() -> None:
    rng = np.random.default_rng(12)
    mask = model_of(rng, 0.3)
    prunable = mask.layout.prunable()
    data = Bytes(encode_mask(mask)[53:-4])
    assert (
        coded_integers(data, Mask.dense(mask.layout), signed=False)
        == (mask.live & prunable).astype(int).tolist()
    )
    assert data.place == len(data.data)

    before = Mask(layout=mask.layout, live=mask.live ^ (prunable & (rng.random(prunable.size) < 0.05)))
    pruned = Mask(layout=mask.layout, live=~before.live | ~prunable)
    data = Bytes(encode_mask(mask, previous=before)[53:-4])
    changed = mask.live ^ before.live
    assert coded_integers(data, before, signed=False) == changed[before.live].astype(int).tolist()
    data = Bytes(data.data[data.place :])
    assert coded_integers(data, pruned, signed=False) == changed[pruned.live].astype(int).tolist()
    assert data.place == len(data.data)


def packed_codes(data: Bytes, count: int, bits: int) -> list[int]:
    packed = int.from_bytes(data.take(-(-count * bits // 8)), "little")
    raw = [packed >> i * bits & (1 << bits) - 1 for i in range(count)]
    return [code - (1 << bits) if code >> bits - 1 else code for code in raw]


def test_packed_payloads_read_the_same_from_the_specification() -> None:
    rng = np.random.default_rng(14)
    mask = model_of(rng, 0.5)
    values = rng.normal(size=mask.num_live).astype(np.float32)
    codec = codec_from_config({"codec_id": "integer", "step": 0.25, "bits": 5, "packed": True})
    payload = codec.encode(values, mask=mask)
    data = Bytes(payload)
    assert (data.take(1)[0], data.varint()) == (5, int(np.sum(np.abs(np.rint(values / 0.25)) > 15)))
    codes = packed_codes(data, mask.num_live, 5)
    (g,) = struct.unpack("<H", data.take(2))
    assert [c * (4 + g % 4) * 2.0 ** (g // 4 - 149) for c in codes] == codec.decode(
        payload, mask=mask
    ).values().tolist()
    assert data.place == len(payload)

    codec = codec_from_config({"codec_id": "randk", "fraction": 0.1, "bits": 6, "seed": 2026})
    payload = codec.encode(values, mask=mask)
    data = Bytes(payload)
    count, bits = data.varint(), data.take(1)[0]
    seed, g = struct.unpack("<QH", data.take(10))
    words = []
    for i in range(mask.num_live):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        words.append(((z ^ z >> 31) >> 32, i))
    expected = [0.0] * mask.num_live
    drawn = sorted(i for _, i in sorted(words)[:count])
    for i, code in zip(drawn, packed_codes(data, count, bits), strict=True):
        expected[i] = code * (4 + g % 4) * 2.0 ** (g // 4 - 149)
    assert codec.decode(payload, mask=mask).values().tolist() == expected
    assert data.place == len(payload)
