from __future__ import annotations

import msgpack
import numpy as np
import pytest

from hedgerow_codecs import KINDS, CodecError, Layout, LayoutError, TensorSpec


def spec(
    name: str = "w", shape: tuple[int, ...] = (2,), kind: str = "linear", prunable: bool = True
) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, kind=kind, prunable=prunable)


def test_offsets_follow_the_sizes(layout: Layout) -> None:
    assert layout.num_parameters == 107
    assert layout.offsets == (0, 36, 40, 44, 48, 52, 102, 107)
    assert Layout(tensors=(spec(shape=()),)).num_parameters == 1
    assert Layout(tensors=()).offsets == (0,)


def test_bytes_round_trip_and_pin_the_digest(layout: Layout) -> None:
    again = Layout.from_bytes(layout.to_bytes())
    assert again == layout
    assert again.digest == layout.digest
    # A changed digest makes every frame in the world one for another layout.
    assert Layout(tensors=(spec(),)).to_bytes().hex() == "92019194a177910201c3"
    assert Layout(tensors=(spec(),)).digest.hex() == "eb3d2e44406a6f2e7b249071379f9ceb"


def test_every_kind_round_trips() -> None:
    layout = Layout(tensors=tuple(spec(name=kind, kind=kind, prunable=False) for kind in KINDS))
    assert Layout.from_bytes(layout.to_bytes()) == layout


def test_split_gives_views_and_join_undoes_it(layout: Layout) -> None:
    flat = np.arange(107, dtype=np.float32)
    parts = layout.split(flat)
    assert list(parts) == [tensor.name for tensor in layout.tensors]
    assert parts["fc.weight"].shape == (5, 10)
    assert parts["fc.weight"][1, 2] == 52 + 12
    assert np.shares_memory(parts["conv.bias"], flat)
    assert np.array_equal(layout.join(parts), flat)
    assert layout.join({**parts, "conv.bias": [1, 2, 3, 4]}).dtype == np.float32


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (lambda parts: parts.pop("fc.bias"), "fc.bias"),
        (lambda parts: parts.update(extra=np.zeros(1)), "extra"),
        (lambda parts: parts.update({"fc.weight": np.zeros((10, 5))}), "fc.weight"),
    ],
)
def test_join_names_the_tensor_at_fault(layout: Layout, change, tensor: str) -> None:
    parts = dict(layout.split(np.zeros(107, np.float32)))
    change(parts)
    with pytest.raises(LayoutError, match=f"'{tensor}'") as caught:
        layout.join(parts)
    assert caught.value.tensor == tensor


def test_split_refuses_another_size(layout: Layout) -> None:
    with pytest.raises(LayoutError, match=r"\(107,\), got \(106,\)"):
        layout.split(np.zeros(106, np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a\n"},
        {"name": "\ud800"},
        {"name": "ä" * 128},
        {"shape": (0,)},
        {"shape": (-1,)},
        {"shape": (True,)},
        {"shape": (2.0,)},
        {"shape": (1,) * 9},
        {"shape": (2**31 + 1,)},
        {"shape": [2]},
        {"kind": "convolution"},
        {"prunable": 1},
    ],
)
def test_a_tensor_out_of_range_is_refused(fields: dict) -> None:
    with pytest.raises(LayoutError):
        spec(**fields)


def test_a_layout_out_of_range_is_refused() -> None:
    with pytest.raises(LayoutError, match="'w' is in the layout twice"):
        Layout(tensors=(spec(), spec()))
    with pytest.raises(LayoutError, match="2\\*\\*31 parameters"):
        Layout(tensors=(spec(shape=(2**31,)), spec(name="v", shape=())))
    with pytest.raises(LayoutError, match="10000 tensors"):
        Layout(tensors=tuple(spec(name=str(i)) for i in range(10_001)))


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        [2, []],
        [1, [], []],
        [1, {}],
        [1, [["w", [2], 1]]],
        [1, [["w", [2], 99, True]]],
        [1, [["w", [2], -1, True]]],
        [1, [["w", [2], 1, 1]]],
        [1, [["w", [2], True, True]]],
        [1, [["w", [2.0], 1, True]]],
        [1, [["w", [[2]], 1, True]]],
        [1, [["w", "2", 1, True]]],
        [1, [[b"w", [2], 1, True]]],
        [1, [["w", [2**40], 1, True]]],
        [1, [["w", [2], 1, True], ["w", [2], 1, True]]],
        [1.0, []],
        [True, []],
    ],
)
def test_malformed_content_is_refused(content: object) -> None:
    with pytest.raises(LayoutError):
        Layout.from_bytes(msgpack.packb(content))


def test_damaged_bytes_are_refused_or_give_a_valid_layout(layout: Layout) -> None:
    data = layout.to_bytes()
    for end in range(len(data)):
        with pytest.raises(CodecError):
            Layout.from_bytes(data[:end])
    with pytest.raises(CodecError):
        Layout.from_bytes(data + b"\0")
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            try:
                found = Layout.from_bytes(bytes(damaged))
            except LayoutError:
                continue
            assert found.to_bytes() == damaged
            assert found.digest != layout.digest


def test_a_second_spelling_is_refused() -> None:
    data = Layout(tensors=(spec(),)).to_bytes()
    longer = b"\xdc\x00\x02" + data[1:]  # array of two, with a 16-bit length
    assert msgpack.unpackb(longer) == msgpack.unpackb(data)
    with pytest.raises(LayoutError, match="canonical"):
        Layout.from_bytes(longer)


def test_huge_claims_are_refused_at_once() -> None:
    for claim in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ):
        with pytest.raises(LayoutError):
            Layout.from_bytes(b"\x92\x01" + claim)
    with pytest.raises(LayoutError, match="bytes"):
        Layout.from_bytes(bytes(5_000_000))
