"""Chunks, bitmaps, the assembler and the store."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_transport import (
    BlobAssembler,
    BlobError,
    BlobRef,
    BlobStore,
    MessageError,
    bitmap,
    blob_chunk,
    blob_digest,
    chunk_count,
    decode_chunk,
    encode_chunk,
)

DATA = bytes(range(256)) * 4 + b"tail"
SIZE = 100
REF = BlobRef(kind="update", digest=blob_digest(DATA), size=len(DATA))
CHUNKS = [blob_chunk(DATA, index, chunk_bytes=SIZE) for index in range(11)]


def test_chunk_bytes_on_the_wire() -> None:
    head = b"\x01\x00\x00\x01\x02"
    assert encode_chunk(258, b"abc") == head + zlib.crc32(head + b"abc").to_bytes(4, "big") + b"abc"
    assert decode_chunk(encode_chunk(258, b"abc"), 3) == (258, b"abc")


def test_a_damaged_chunk_is_refused() -> None:
    payload = encode_chunk(7, b"abcdefgh")
    for length in range(len(payload)):
        with pytest.raises(MessageError):
            decode_chunk(payload[:length], 100)
    for place in range(len(payload)):
        for bit in range(8):
            damaged = bytearray(payload)
            damaged[place] ^= 1 << bit
            with pytest.raises(MessageError):
                decode_chunk(bytes(damaged), 100)
    with pytest.raises(MessageError, match="has 8 bytes of data, 1 to 7 are allowed"):
        decode_chunk(payload, 7)


@given(st.binary(max_size=64))
def test_random_bytes_are_no_chunk(payload: bytes) -> None:
    with pytest.raises(MessageError):
        decode_chunk(payload, 1000)


def test_chunk_count_is_bounded() -> None:
    assert [chunk_count(size, 100) for size in (1, 100, 101, 1028)] == [1, 1, 2, 11]
    assert chunk_count(65_536 * 16, 16) == 65_536
    for size, chunk_bytes in ((65_536 * 16 + 1, 16), (0, 16), (100, 15), (100, 2**20 + 1)):
        with pytest.raises(MessageError):
            chunk_count(size, chunk_bytes)


def test_bitmaps() -> None:
    assert bitmap.from_indices([0, 9, 12, 99], size=10) == b"\x01\x02"
    assert bitmap.indices(b"\x01\x02\x00") == [0, 9]
    assert bitmap.indices(b"\xff", size=3) == [0, 1, 2]
    assert bitmap.union(b"\x01", b"\x02\x80", b"") == b"\x03\x80"
    assert bitmap.union() == b""
    assert bitmap.without(b"\xff\x03", b"\x0f") == b"\xf0\x03"
    assert bitmap.count(b"\xff\x03") == 10
    assert bitmap.full(16) == b"\xff\xff"


@pytest.mark.parametrize("on_disk", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_order_with_loss_and_duplicates(
    on_disk: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    assembler = BlobAssembler(
        REF, chunk_bytes=SIZE, directory=tmp_path_factory.mktemp("parts") if on_disk else None
    )
    for _ in range(100):
        wanted = bitmap.indices(assembler.missing())
        rng.shuffle(wanted)
        for index in wanted:
            if rng.random() < 0.6:
                assembler.add(index, CHUNKS[index])
                assert assembler.add(index, CHUNKS[index]) == assembler.complete
        if assembler.complete:
            break
    assert assembler.data() == DATA
    assert bitmap.count(assembler.missing()) == 0
    assert assembler.have() == b"\xff\x07"


def test_add_says_when_the_blob_is_complete() -> None:
    assembler = BlobAssembler(REF, chunk_bytes=SIZE)
    assert [assembler.add(index, CHUNKS[index]) for index in range(11)] == [False] * 10 + [True]
    assert assembler.add(0, CHUNKS[0])


@pytest.mark.parametrize(
    ("index", "data"), [(-1, CHUNKS[0]), (11, b"tail"), (0, b""), (0, CHUNKS[0] + b"x"), (10, CHUNKS[0])]
)
def test_a_chunk_that_does_not_belong_is_refused(index: int, data: bytes) -> None:
    assembler = BlobAssembler(REF, chunk_bytes=SIZE)
    with pytest.raises(BlobError, match="does not belong"):
        assembler.add(index, data)
    assert bitmap.count(assembler.have()) == 0


def test_a_wrong_digest_forgets_all_chunks(tmp_path: Path) -> None:
    assembler = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    for index in range(10):
        assembler.add(index, CHUNKS[index])
    with pytest.raises(BlobError, match="digest does not match"):
        assembler.add(10, CHUNKS[10][::-1])
    assert bitmap.count(assembler.missing()) == 11
    with pytest.raises(BlobError, match="0 of 11 chunks"):
        assembler.data()
    for index in range(11):
        assembler.add(index, CHUNKS[index])
    assert assembler.data() == DATA
    assert BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path).data() == DATA


def test_a_transfer_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    for index in (3, 0, 10):
        first.add(index, CHUNKS[index])
    second = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    assert bitmap.indices(second.have()) == [0, 3, 10]
    for index in bitmap.indices(second.missing()):
        second.add(index, CHUNKS[index])
    third = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    assert third.complete
    assert third.data() == DATA
    third.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_part_file_cut_at_any_byte_gives_whole_chunks_only(tmp_path: Path) -> None:
    first = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    for index in range(10):
        first.add(index, CHUNKS[index])
    (part,) = tmp_path.iterdir()
    stored = part.read_bytes()
    header, record = 16, 4 + 9 + SIZE
    assert len(stored) == header + 10 * record
    for length in range(len(stored)):
        part.write_bytes(stored[:length])
        again = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
        whole = max(0, length - header) // record
        assert bitmap.indices(again.have()) == list(range(whole))
        again.add(whole, CHUNKS[whole])
        resumed = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
        assert bitmap.indices(resumed.have()) == list(range(whole + 1))


def test_a_rotten_part_file_never_gives_wrong_bytes(tmp_path: Path) -> None:
    first = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
    for index in range(10):
        first.add(index, CHUNKS[index])
    (part,) = tmp_path.iterdir()
    stored = part.read_bytes()
    for place in range(0, len(stored), 7):
        part.write_bytes(stored[:place] + bytes([stored[place] ^ 0x55]) + stored[place + 1 :])
        again = BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path)
        for index in bitmap.indices(again.missing()):
            again.add(index, CHUNKS[index])
        assert again.data() == DATA
        again.discard()


def test_another_chunk_size_starts_over(tmp_path: Path) -> None:
    BlobAssembler(REF, chunk_bytes=SIZE, directory=tmp_path).add(0, CHUNKS[0])
    assert bitmap.count(BlobAssembler(REF, chunk_bytes=SIZE + 1, directory=tmp_path).have()) == 0


def test_a_huge_claim_allocates_nothing(tmp_path: Path) -> None:
    huge = BlobRef(kind="keyframe", digest=REF.digest, size=2**32 - 1)
    assembler = BlobAssembler(huge, chunk_bytes=1 << 20, directory=tmp_path)
    assert bitmap.count(assembler.missing()) == 4096
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 16
    with pytest.raises(BlobError, match="chunks of 16 bytes"):
        BlobAssembler(huge, chunk_bytes=16)


def test_a_disk_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(BlobError, match="cannot keep chunks in"):
        BlobAssembler(REF, chunk_bytes=SIZE, directory=blocked)


@pytest.mark.parametrize("on_disk", [False, True])
def test_store_keeps_by_digest(on_disk: bool, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs" if on_disk else None)
    digests = [store.put(data) for data in (b"a", b"b", b"c", b"a")]
    assert digests[0] == digests[3] == blob_digest(b"a")
    assert [store.get(digest) for digest in digests[:3]] == [b"a", b"b", b"c"]
    store.delete(digests[0])
    store.delete(digests[0])
    store.keep(digests[1:2])
    assert [store.has(digest) for digest in digests[:3]] == [False, True, False]
    with pytest.raises(BlobError, match="is not here"):
        store.get(digests[2])


def test_store_survives_a_restart_and_finds_rot(tmp_path: Path) -> None:
    digest = BlobStore(tmp_path).put(b"data")
    again = BlobStore(tmp_path)
    assert again.get(digest) == b"data"
    (tmp_path / f"{digest.hex()}.blob").write_bytes(b"dato")
    with pytest.raises(BlobError, match="damaged on disk"):
        again.get(digest)
    assert not again.has(digest)
    assert again.put(b"data") == digest
    assert again.get(digest) == b"data"


def test_keep_sweeps_up_interrupted_writes(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"data")
    (tmp_path / "x.unfinished").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    store.keep([digest])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{digest.hex()}.blob", "notes.txt"])
