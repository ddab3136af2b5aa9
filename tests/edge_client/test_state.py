"""What is on the disk after saves, damage, a full disk and a second client."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from hedgerow_edge_client.errors import StateError
from hedgerow_edge_client.state import ClientState, MemoryState, Pending, Snapshot


def make_snapshot(*, version: int = 3, pending: bool = True) -> Snapshot:
    weights = np.arange(11, dtype=np.float32) / 7
    return Snapshot(
        run="digits-1",
        layout=bytes(range(16)),
        version=version,
        weights=weights,
        live=weights > 0.5,
        residual=-weights,
        done_round=2,
        pending=Pending(
            round=4,
            frame=b"\x00frame\xff",
            residual=weights * 2,
            num_samples=40,
            metrics={"loss": 0.25, "accuracy": 0.5},
            train_s=1.5,
        )
        if pending
        else None,
    )


def assert_same(found: Snapshot | None, wanted: Snapshot) -> None:
    assert found is not None
    for name in ("run", "layout", "version", "done_round", "feedback"):
        assert getattr(found, name) == getattr(wanted, name)
    for name in ("weights", "live", "residual"):
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.pending is None) == (wanted.pending is None)
    if found.pending is not None and wanted.pending is not None:
        for name in ("round", "frame", "num_samples", "metrics", "train_s"):
            assert getattr(found.pending, name) == getattr(wanted.pending, name)
        np.testing.assert_array_equal(found.pending.residual, wanted.pending.residual)


@pytest.mark.parametrize("pending", [True, False])
def test_what_is_saved_is_loaded_by_the_next_start(tmp_path: Path, pending: bool) -> None:
    state = ClientState(tmp_path / "deep" / "state")
    assert state.load() is None
    state.save(make_snapshot(version=1))
    state.save(make_snapshot(pending=pending))
    state.close()
    again = ClientState(tmp_path / "deep" / "state")
    assert_same(again.load(), make_snapshot(pending=pending))
    assert again.warnings == []
    again.close()


@pytest.mark.parametrize("kind", ["residual", "ef21", "none"])
def test_the_kind_of_feedback_is_kept_with_its_vector(tmp_path: Path, kind: str) -> None:
    state = ClientState(tmp_path)
    state.save(replace(make_snapshot(), feedback=kind))
    assert_same(state.load(), replace(make_snapshot(), feedback=kind))
    state.close()
    # A residual's file is that of the time before there were other kinds.
    assert ("feedback" in _content(tmp_path)) == (kind != "residual")


def test_a_kind_of_feedback_that_is_not_known_is_a_damaged_file(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    state.save(replace(make_snapshot(), feedback="ef21"))
    body = msgpack.packb(_content(tmp_path) | {"feedback": "ef99"})
    (tmp_path / "snapshot").write_bytes(b"HGSTATE1" + blake2b(body, digest_size=16).digest() + body)
    assert state.load() is None
    assert "feedback must be one of residual, ef21, none, got 'ef99'" in state.warnings[0]
    state.close()


def _content(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = msgpack.unpackb((directory / "snapshot").read_bytes()[24:], raw=False)
    return content


def test_sessions_count_up_over_starts(tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        state = ClientState(tmp_path)
        numbers.append(state.next_session())
        state.close()
    assert numbers == [1, 2, 3]


def test_a_damaged_session_counter_never_counts_backwards(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    state.next_session()
    (tmp_path / "session").write_bytes(b"HGSTATE1 but no more than that")
    after = state.next_session()
    assert after > 1_000_000_000  # seconds since 1970
    assert state.next_session() > after
    assert len(state.warnings) == 1
    state.close()


def test_every_truncation_and_every_flipped_byte_is_found_and_put_aside(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    state.save(make_snapshot())
    path, aside = tmp_path / "snapshot", tmp_path / "snapshot.damaged"
    good = path.read_bytes()
    damaged = [good[:length] for length in range(len(good))]
    damaged += [good[:i] + bytes([good[i] ^ 0x10]) + good[i + 1 :] for i in range(len(good))]
    for data in damaged:
        path.write_bytes(data)
        assert state.load() is None
        assert not path.exists()
        assert aside.read_bytes() == data
    assert len(state.warnings) == len(damaged)
    assert str(path) in state.warnings[0]
    assert "snapshot.damaged" in state.warnings[0]
    path.write_bytes(good)
    assert_same(state.load(), make_snapshot())
    state.close()


def test_a_full_disk_is_a_sentence_and_leaves_the_last_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ClientState(tmp_path)
    state.save(make_snapshot(version=1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="the disk is full: free some space") as caught:
            state.save(make_snapshot(version=2))
    assert caught.value.path == tmp_path / "snapshot"
    assert_same(state.load(), make_snapshot(version=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "snapshot"]
    state.close()


def test_a_second_client_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    first = ClientState(tmp_path)
    with pytest.raises(StateError, match="used by another running client"):
        ClientState(tmp_path)
    first.close()
    first.close()
    ClientState(tmp_path).close()


def test_a_killed_client_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys\n"
        "from hedgerow_edge_client.state import ClientState\n"
        "state = ClientState(pathlib.Path(sys.argv[1]))\n"
        "state.next_session()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    state = ClientState(tmp_path)
    assert state.next_session() == 2
    state.close()


def test_a_file_where_the_directory_should_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("here already")
    with pytest.raises(StateError, match="cannot be used"):
        ClientState(tmp_path / "state")


def test_vectors_that_differ_in_length_are_refused() -> None:
    good = make_snapshot()
    with pytest.raises(ValueError, match=r"residual must be float32 \(11,\), got float32 \(10,\)"):
        Snapshot(
            run="r",
            layout=good.layout,
            version=1,
            weights=good.weights,
            live=good.live,
            residual=good.residual[:10],
        )


def test_memory_state_keeps_and_counts() -> None:
    state = MemoryState()
    assert state.load() is None
    state.save(make_snapshot())
    assert_same(state.load(), make_snapshot())
    assert [state.next_session(), state.next_session()] == [1, 2]


def test_the_client_side_of_training_loads_no_torch() -> None:
    modules = "state, requests, task, trainer_process, trainer_frames"
    script = (
        f"import sys\nfrom hedgerow_edge_client import {modules}\n"
        "import pathlib\n"
        "task.scan_task(pathlib.Path(sys.argv[1]))\n"
        "loaded = {'torch', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(' '.join(loaded) or 0)\n"
    )
    task = Path(__file__).parent / "tiny_task.py"
    done = subprocess.run(
        [sys.executable, "-c", script, str(task)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
