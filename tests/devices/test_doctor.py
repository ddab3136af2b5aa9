import calendar
import subprocess
import sys
from pathlib import Path

import pytest

import hedgerow_devices.doctor
from hedgerow_devices import (
    Check,
    Readings,
    TrialOutcome,
    check_architecture,
    check_clock,
    check_disk,
    check_memory,
    check_package,
    check_python,
    check_threads,
    judge_trial,
    run_checks,
    run_trial,
    signal_name,
)

NOW_S = calendar.timegm((2026, 3, 1, 12, 30, 0))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_old_python_fails():
    assert check_python((3, 10, 12)).ok is False
    assert "3.11" in check_python((3, 10, 12)).remedy
    assert check_python((3, 11, 0)) == Check(name="python", ok=True, detail="Python 3.11.0.")
    assert check_python((4, 0, 0)).ok is True


@pytest.mark.parametrize(
    ("arch", "bits", "ok"),
    [
        ("x86_64", 64, True),
        ("aarch64", 64, True),
        ("riscv64", 64, None),
        ("", 64, None),
        ("armv7l", 32, False),
        ("aarch64", 32, False),
    ],
)
def test_architecture(arch, bits, ok):
    check = check_architecture(arch, bits=bits)
    assert check.ok is ok
    assert bool(check.remedy) is (ok is not True)


def test_threads():
    assert check_threads(4).ok is True
    assert "takes 3 of them" in check_threads(4).detail
    assert check_threads(1).ok is None
    crowded = check_threads(4, environ={"OMP_NUM_THREADS": "8"})
    assert crowded.ok is None
    assert crowded.remedy == "Unset OMP_NUM_THREADS, or set it to 3."
    assert check_threads(4, environ={"OMP_NUM_THREADS": "4,2"}).ok is True


@pytest.mark.parametrize(("free", "ok"), [(600, True), (599, None), (300, None), (299, False), (None, None)])
def test_memory(free, ok):
    assert check_memory(free).ok is ok


@pytest.mark.parametrize(("free", "ok"), [(500, True), (499, None), (100, None), (99, False), (None, None)])
def test_disk(monkeypatch, tmp_path, free, ok):
    monkeypatch.setattr(hedgerow_devices.doctor, "free_mib", lambda directory: free)
    assert check_disk(tmp_path / "later").ok is ok


def test_unwritable_disk_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(hedgerow_devices.doctor.os, "access", lambda path, mode: False)
    check = check_disk(tmp_path)
    assert check.ok is False
    assert str(tmp_path) in check.detail


def test_deleted_current_folder_fails_without_raising(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert check_disk(Path()).ok is False
    assert Readings.take().disk_free_mib is None


def test_clock_of_the_past_fails(tmp_path):
    check = check_clock(0.0, root=tmp_path)
    assert check.ok is False
    assert check.detail == "The clock says 1970-01-01 00:00 UTC, which is in the past."
    assert check_clock(calendar.timegm((2024, 12, 31, 23, 59, 59)), root=tmp_path).ok is False
    assert check_clock(calendar.timegm((2025, 1, 1, 0, 0, 0)), root=tmp_path).ok is True


def test_clock_that_is_synchronised(tmp_path):
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    assert check_clock(NOW_S, root=tmp_path).ok is None
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    assert check_clock(NOW_S, root=tmp_path).detail == "2026-03-01 12:30 UTC, synchronised."


@pytest.mark.parametrize("now_s", [float("nan"), float("inf"), 1e30])
def test_impossible_clock_fails_without_raising(tmp_path, now_s):
    assert check_clock(now_s, root=tmp_path).ok is False


def test_package_that_is_missing_or_there():
    missing = check_package("hedgerow_no_such", remedy="pip install it", needed_for="to test")
    assert (missing.ok, missing.detail, missing.remedy) == (
        None,
        "Not installed; needed to test.",
        "pip install it",
    )
    assert check_package("numpy", remedy="", needed_for="").ok is True
    assert "numpy" not in check_package("json", remedy="", needed_for="").detail


def test_trial_that_succeeds():
    check = judge_trial(run_trial(python("print('torch-trial 2.9.1 1.2 0.01')")))
    assert check == Check(
        name="torch-trial", ok=True, detail="torch 2.9.1 loads in 1.2 s and multiplies with two threads."
    )


@pytest.mark.parametrize(
    ("signal", "words"), [("SIGILL", "illegal instruction"), ("SIGSEGV", "SIGSEGV"), ("SIGKILL", "memory")]
)
def test_trial_that_is_killed_becomes_a_sentence(signal, words):
    outcome = run_trial(python(f"import os, signal; os.kill(os.getpid(), signal.{signal})"))
    check = judge_trial(outcome)
    assert check.ok is False
    assert words in check.detail
    assert check.remedy


def test_trial_that_hangs_is_ended_and_told():
    check = judge_trial(run_trial(python("import time; time.sleep(60)"), timeout_s=0.3))
    assert check.ok is False
    assert "did not end within 0.3 s" in check.detail


def test_trial_that_cannot_start_is_told(tmp_path):
    outcome = run_trial([str(tmp_path / "absent")])
    assert outcome.returncode is None
    assert judge_trial(outcome).ok is False


def test_trial_with_an_error_tells_its_last_line():
    check = judge_trial(run_trial(python("raise OSError('libtorch.so: cannot open')")))
    assert check.ok is False
    assert check.detail == "torch fails in a child process: OSError: libtorch.so: cannot open"


def test_trial_without_torch_is_a_warning():
    outcome = TrialOutcome(returncode=1, stderr="ModuleNotFoundError: No module named 'torch'\n")
    assert judge_trial(outcome).ok is None


def test_trial_that_ends_well_but_says_nothing_fails():
    assert judge_trial(TrialOutcome(returncode=0)).ok is False


def test_signal_without_a_name():
    assert (signal_name(4), signal_name(99)) == ("SIGILL", "signal 99")


def test_every_check_runs_on_this_machine(tmp_path: Path):
    checks = run_checks(directory=tmp_path, environ={}, now_s=float(NOW_S))
    assert [check.name for check in checks] == [
        *("python", "architecture", "torch", "torch-trial", "onnxruntime", "onnx"),
        *("threads", "memory", "disk", "clock"),
    ]
    by_name = {check.name: check for check in checks}
    assert by_name["torch-trial"].ok is True, by_name["torch-trial"]
    assert by_name["python"].ok is True


def test_every_check_survives_an_empty_root(fake_root, monkeypatch):
    monkeypatch.setattr(hedgerow_devices.doctor, "run_trial", lambda timeout_s: TrialOutcome(returncode=-4))
    checks = {check.name: check for check in run_checks(root=fake_root({}), now_s=0.0)}
    assert checks["memory"].ok is None
    assert checks["clock"].ok is False
    assert checks["torch-trial"].ok is False


def test_import_of_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'numpy', 'matplotlib', 'rich'}"
    code = f"import sys, hedgerow_devices; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(python(code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
