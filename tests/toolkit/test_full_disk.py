"""A disk that is full, and a reader that leaves: no traceback, and nothing is broken."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.toolkit.conftest import NOBODY

from hedgerow.exit_codes import ExitCode

# -- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a command whose arguments name FULL, a folder without room: a full tmpfs, or else a limit."""
    folder = tmp_path / "full"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(["mount", *options], check=False).returncode

    def limit() -> None:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(folder / "x") if word == "FULL" else str(word) for word in arguments]
        command = [sys.executable, "-m", "hedgerow.main", *words]
        return subprocess.run(
            command, preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False
        )

    if mounted:
        (folder / "ballast").write_bytes(bytes(8192))
    yield run
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_a_coordinator_with_a_sentence(
    project: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("coordinator", project / "plan.toml", "--broker", NOBODY, "--run-dir", "FULL")
    assert ended.returncode == ExitCode.STORAGE, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("hedgerow coordinator: cannot write ")


def test_a_full_disk_stops_a_client_with_a_sentence(
    task: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("client", task, "--broker", NOBODY, "--name", "a", "--state-dir", "FULL")
    assert ended.returncode == ExitCode.STORAGE, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("hedgerow client: ")


def test_a_full_disk_stops_an_export_with_a_sentence(
    committed_run: Path, full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = full_disk("export", committed_run, "-o", "FULL")
    assert ended.returncode == ExitCode.RUN_FAILED, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "No space left" in ended.stderr or "too large" in ended.stderr


# -- a reader that leaves ---------------------------------------------------------------------------------


def test_a_closed_stdout_is_no_fault() -> None:
    for arguments in (["--help"], ["doctor", "--help"]):
        command = [sys.executable, "-m", "hedgerow.main", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(timeout=20)
        assert said == b""
        assert process.returncode == 0


def test_a_coordinator_goes_on_when_nobody_reads_its_lines(project: Path) -> None:
    command = [sys.executable, "-m", "hedgerow.main", "coordinator", str(project / "plan.toml")]
    process = subprocess.Popen([*command, "--broker", NOBODY], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=20)
    # It came as far as the broker that is not there.
    assert process.returncode == ExitCode.BROKER
    assert said.startswith(b"hedgerow coordinator: ")
    assert b"Traceback" not in said
