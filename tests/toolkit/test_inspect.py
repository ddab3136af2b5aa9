"""Inspect: every kind of file is told by its content, and damage is a sentence, promptly."""

import io
import json
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest

from hedgerow.errors import UsageError
from hedgerow.inspection import Description, Fact, TensorRow, inspect_path
from hedgerow.main import main
from hedgerow_codecs import (
    NO_BASE,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    bundle,
    codec_from_config,
    encode_frame,
    encode_mask,
    encode_seeded,
)
from hedgerow_coordinator import ServerState, encode_checkpoint
from hedgerow_edge_client import ClientState, Snapshot
from hedgerow_transport import Ack, BlobRef, Manifest, Presence, encode_chunk

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(4, 3), kind="linear", prunable=True),
        TensorSpec(name="a.bias", shape=(4,), kind="bias", prunable=False),
    )
)
MASK = Mask(layout=LAYOUT, live=np.arange(16) >= 6)
PLAN = b'[run]\nname = "digits"\nrounds = 20\n'


def facts(found: Description) -> dict[str, str]:
    return {fact.name: fact.text for fact in found.facts}


def update(kind: FrameKind = FrameKind.UPDATE) -> bytes:
    values = np.linspace(-1, 1, MASK.num_live, dtype=np.float32)
    codec = codec_from_config({"codec_id": "deadzone"})
    return encode_frame(values, kind=kind, mask=MASK, base=NO_BASE, codec=codec)


def checkpoint() -> bytes:
    weights = np.where(MASK.live, np.float32(0.5), np.float32(0))
    return encode_checkpoint(ServerState(version=7, mask=MASK, weights=weights, published=weights))


def npz(**arrays: object) -> bytes:
    target = io.BytesIO()
    np.savez(target, **arrays)  # type: ignore[arg-type]
    return target.getvalue()


def onnx_model() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.array([[1, 0], [0, 2], [3, 4]], np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, producer_name="somebody", opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


def message() -> bytes:
    ref = BlobRef(kind="update", digest=bytes(range(16)), size=300)
    return Manifest(
        run="digits-1",
        state="round",
        round=4,
        attempt=1,
        version=3,
        layout=bytes(16),
        mask=bytes(16),
        model=bytes(16),
        plan=ref,
        steps=(ref,),
        base_version=2,
        deadline_s=60.0,
    ).encode()


def state_file(tmp_path: Path, *, feedback: str = "residual") -> bytes:
    state = ClientState(tmp_path / "state")
    flat = np.zeros(16, np.float32)
    live = MASK.live.copy()
    state.save(
        Snapshot(
            run="digits-1",
            layout=LAYOUT.digest,
            version=3,
            weights=flat,
            live=live,
            residual=flat,
            feedback=feedback,
        )
    )
    state.close()
    return (tmp_path / "state" / "snapshot").read_bytes()


@pytest.fixture
def look(tmp_path: Path) -> Callable[[bytes], Description]:
    """Return what inspects bytes as a file whose name says nothing."""

    def inspect(data: bytes) -> Description:
        path = tmp_path / "thing.dat"
        path.write_bytes(data)
        return inspect_path(path)

    return inspect


# -- what is what -------------------------------------------------------------------------------------


def test_an_update(look: Callable[[bytes], Description]) -> None:
    frame = update()
    found = look(frame)
    assert found.what == "a client's update: frame UPDATE, version 1"
    assert facts(found) == {
        "size": f"{len(frame)} bytes",
        "payload": f"{len(frame) - 17} bytes",
        "codec": "deadzone",
        "mask": MASK.digest.hex()[:8],
        "base": "none",
        "checksum": "right",
    }


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (update(FrameKind.MODEL_DELTA), "a model's step from one version to the next"),
        (update(FrameKind.KEYFRAME), "a whole model (keyframe)"),
        (encode_mask(MASK), "a whole mask"),
        (encode_mask(MASK, previous=Mask.dense(LAYOUT)), "a mask's difference from the one before"),
    ],
)
def test_other_frames(frame: bytes, what: str, look: Callable[[bytes], Description]) -> None:
    found = look(frame)
    assert found.what.startswith(what + ":")
    assert facts(found)["mask"] == MASK.digest.hex()[:12] + "…"
    assert found.notes


def test_an_update_with_scores_behind_it(look: Callable[[bytes], Description]) -> None:
    frame, scores = update(), update(FrameKind.SCORES)
    found = look(bundle(frame, scores))
    assert found.what.startswith(
        "two frames. a client's update: frame UPDATE, version 1; behind it, importance"
    )
    assert facts(found).items() >= facts(look(frame)).items()
    assert facts(found)["second_payload"] == facts(look(scores))["payload"]
    assert "empty" in look(bundle(frame, b"")).what
    with pytest.raises(UsageError, match="damaged"):
        look(bundle(frame, scores[:-1]))


def test_a_seed(look: Callable[[bytes], Description]) -> None:
    assert facts(look(encode_seeded(LAYOUT, seed=2**40 + 3)))["seed"] == "1,099,511,627,779"


def test_a_checkpoint(look: Callable[[bytes], Description]) -> None:
    found = look(checkpoint())
    assert found.what == "a checkpoint of the coordinator: version 7, the model after round 7"
    assert facts(found)["density"] == "0.6250, 10 of 16 parameters live"
    assert found.tensors == (
        TensorRow(name="a.weight", shape=(4, 3), kind="linear", size=12, live=6),
        TensorRow(name="a.bias", shape=(4,), kind="bias", size=4, live=4),
    )
    assert "a.weight  4x3    linear    12   50.0%" in found.to_text()


def test_another_safetensors_file(look: Callable[[bytes], Description]) -> None:
    from safetensors.numpy import save

    found = look(save({"w": np.zeros((2, 3), np.float16)}))
    assert found.what == "a safetensors file that Hedgerow did not write"
    assert found.tensors == (TensorRow(name="w", shape=(2, 3), kind="F16", size=6),)


def test_a_foreign_onnx_model(look: Callable[[bytes], Description]) -> None:
    found = look(onnx_model())
    assert found.what == "an ONNX model of another program"
    assert facts(found)["inputs"] == "x float any x 3"
    assert facts(found)["zeros"] == "33.3% of the parameters"
    assert found.tensors == (TensorRow(name="w", shape=(3, 2), kind="float32", size=6, live=4),)


def test_a_plan(look: Callable[[bytes], Description]) -> None:
    found = look(PLAN)
    assert found.what == "a plan of 20 rounds, with defaults filled in"
    assert facts(found)["run.name"] == "digits"
    assert facts(found)["cohort.quorum"] == "0.6"


def test_a_wrong_plan_names_line_and_key(look: Callable[[bytes], Description]) -> None:
    with pytest.raises(UsageError, match=r"thing\.dat, line 2: \[run\] nam"):
        look(b'[run]\nnam = "digits"\n')


def test_test_data(look: Callable[[bytes], Description]) -> None:
    data = npz(inputs=np.zeros((5, 1, 8, 8), np.float32), targets=np.zeros(5, np.int64))
    found = look(data)
    assert found.what == "test data: `inputs` and `targets` for [evaluate] data"
    assert facts(found)["samples"] == "5"
    assert found.tensors[0] == TensorRow(name="inputs", shape=(5, 1, 8, 8), kind="float32", size=320)


def test_arrays_that_are_no_test_data(look: Callable[[bytes], Description]) -> None:
    found = look(npz(inputs=np.zeros((5, 2)), targets=np.zeros(4)))
    assert found.what == "arrays in an .npz file"
    assert "of one length" in found.notes[0]


def test_messages(look: Callable[[bytes], Description]) -> None:
    found = look(message())
    assert found.what == "a message: Manifest"
    assert facts(found)["cohort"] == "everybody"
    assert facts(found)["plan"] == "update 00010203… (300 bytes)"
    ack = Ack(run="r", round=1, digest=bytes(16), status="refused", reason="too late")
    assert facts(look(ack.encode()))["reason"] == "too late"
    presence = Presence(client="pi-1", session=1, online=True, profile={"cores": 4})
    assert facts(look(presence.encode()))["profile"] == "cores 4"


def test_a_chunk(look: Callable[[bytes], Description]) -> None:
    found = look(encode_chunk(3, b"HG" * 50))
    assert found.what == "one chunk of a blob"
    assert facts(found)["index"] == "3"
    assert facts(found)["data"] == "100 bytes"


@pytest.mark.parametrize(
    ("feedback", "kept"),
    [("residual", "residual"), ("ef21", "estimate of EF21"), ("none", "no error feedback")],
)
def test_what_a_client_keeps(
    look: Callable[[bytes], Description], tmp_path: Path, feedback: str, kept: str
) -> None:
    found = look(state_file(tmp_path, feedback=feedback))
    assert found.what == f"what a client keeps: model, mask, {kept}"
    assert facts(found)["density"] == "0.6250, 10 of 16 parameters live"
    assert facts(found)["unsent_update"] == "none"


def test_a_run(small_run: Path) -> None:
    found = inspect_path(small_run)
    seen = facts(found)
    assert found.what == "a run"
    assert seen["rounds"] == "3 of 3"
    assert seen["accuracy"] == "0.875 after round 3"
    assert seen["bytes_up"] == "1.60 kB (1,600 bytes)"
    assert "40.0 kB each way (computed, not measured)" in seen["dense_float32_bytes_computed"]
    assert [row.live for row in found.tensors] == [450, 50]
    assert inspect_path(small_run / "journal.sqlite") == found


def test_a_run_without_rounds(new_run: Callable[..., Path]) -> None:
    found = inspect_path(new_run())
    assert facts(found)["accuracy"] == "not measured (not yet)"
    assert found.notes == ("No checkpoint could be read: no version has been made yet.",)


# -- what is not --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello", "is nothing that Hedgerow knows"),
        (b"\x7fELF" + bytes(100), "is nothing that Hedgerow knows"),
        (b"SQLite format 3\0" + bytes(100), "is an SQLite database"),
        (b"HG", "is a frame, but a damaged one"),
        (b"PK\x03\x04", "is a zip archive that was cut short"),
        (b"\x81\xa1v\x01", "is a msgpack map, but no message"),
        (b"\x08\x0a", "begins like an ONNX model, but"),
        (b"\x40" + bytes(7) + b"{}", "begins like a safetensors file, but"),
        (b"HGSTATE1" + bytes(40), "does not fit its digest"),
        (npz(a=np.array([{}], object)), "holds Python objects, which are never loaded"),
    ],
)
def test_the_unknown_and_the_damaged(
    data: bytes, sentence: str, look: Callable[[bytes], Description]
) -> None:
    with pytest.raises(
        UsageError, match="thing.dat " + sentence if sentence.startswith(("is", "be")) else sentence
    ):
        look(data)


def test_a_message_with_a_fault_names_it(look: Callable[[bytes], Description]) -> None:
    plain = msgpack.unpackb(message())
    with pytest.raises(UsageError, match=r"not a whole message: .*Manifest.*round"):
        look(bytes(msgpack.packb(plain | {"n": -4}) or b""))


def _samples(tmp_path: Path) -> dict[str, bytes]:
    return {
        "update": update(),
        "mask": encode_mask(MASK),
        "seed": encode_seeded(LAYOUT, seed=7),
        "checkpoint": checkpoint(),
        "npz": npz(inputs=np.zeros((2, 2), np.float32), targets=np.zeros(2, np.int64)),
        "onnx": onnx_model(),
        "message": message(),
        "chunk": encode_chunk(0, b"data"),
        "state": state_file(tmp_path),
        "plan": PLAN,
    }


@pytest.mark.parametrize(
    "kind", ["update", "mask", "seed", "checkpoint", "npz", "onnx", "message", "chunk", "state", "plan"]
)
def test_damage_is_never_more_than_a_sentence(
    kind: str, look: Callable[[bytes], Description], tmp_path: Path
) -> None:
    data = _samples(tmp_path)[kind]
    look(data)
    damaged = [data[:length] for length in range(len(data))]
    damaged += [
        data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :] for i in range(len(data)) for flip in (1, 0xFF)
    ]
    sentences = []
    for case in damaged:
        try:
            found = look(case)
            found.to_text()
            json.dumps(found.to_json(), default=str)
        except UsageError as error:
            sentences.append(str(error))
    assert [sentence for sentence in sentences if "\n" in sentence] == []
    if kind in ("update", "mask", "seed", "chunk", "state"):
        # These carry a checksum or a digest over all of their bytes.
        assert len(sentences) == len(damaged)


def test_a_damaged_run_is_a_sentence(small_run: Path) -> None:
    (small_run / "journal.sqlite").write_bytes(b"not a journal")
    with pytest.raises(UsageError, match="cannot be read as a run"):
        inspect_path(small_run)


def test_a_directory_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory, but not that of a run"):
        inspect_path(tmp_path)


# -- bounds -------------------------------------------------------------------------------------------


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is neither a file nor a directory"):
            inspect_path(path)


@pytest.mark.parametrize(
    "head", [b"HG\x01\x01\x04", b"\x08\x0a", b"PK\x03\x04", b"HGSTATE1", b"\x8b\xa1", b"", b"[run]"]
)
def test_ten_gigabytes_are_refused_in_little_memory(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(10_000_000_000)
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(UsageError):
            inspect_path(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 5


def test_a_large_checkpoint_is_not_read(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10_000_000_000)
    assert facts(inspect_path(path))["parameters"] == "2,500,000,000"


def test_an_archive_that_unpacks_to_a_lot_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (250_000_000,)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(50):
            member.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        found = inspect_path(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert found.tensors[0].size == 250_000_000


# -- the command --------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(checkpoint())
    assert main(["inspect", str(path)]) == 0
    assert "density    0.6250, 10 of 16 parameters live" in capsys.readouterr().out
    assert main(["inspect", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["density"] == 0.625
    assert found["facts"]["mask"] == MASK.digest.hex()
    assert found["tensors"][0] == {
        "name": "a.weight", "shape": [4, 3], "kind": "linear", "size": 12, "live": 6
    }  # fmt: skip


def test_every_kind_has_json(tmp_path: Path, small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in _samples(tmp_path).items():
        path = tmp_path / f"{name}.dat"
        path.write_bytes(data)
        assert main(["inspect", "--json", str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["facts"]
    assert main(["inspect", "--json", str(small_run)]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["bytes_up"] == 1600


def test_an_unknown_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert main(["inspect", str(tmp_path / "x")]) == 2
    assert main(["inspect", str(tmp_path / "missing")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("missing cannot be read: No such file or directory")


def test_a_file_cannot_steer_the_terminal() -> None:
    nasty = "\x1b[2J\n" + "x" * 500
    row = TensorRow(name=nasty, shape=(), kind=nasty, size=1)
    found = Description(what=nasty, facts=(Fact(name="metadata." + nasty, value=nasty),), tensors=(row,))
    text = found.to_text()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 600
    assert len(text.splitlines()) == 5


def test_long_tables_are_cut() -> None:
    rows = tuple(TensorRow(name=f"t{i}", shape=(1,), kind="bias", size=1) for i in range(50))
    found = Description(what="x", tensors=rows)
    assert "... and 10 more tensors; --json lists all" in found.to_text()
    assert len(found.to_json()["tensors"]) == 50  # type: ignore[arg-type]
