import pytest

from hedgerow_devices import TorchFacts, installed_torch, torch_verdict
from hedgerow_devices.torch_build import read_version_file

A72 = frozenset({"fp", "asimd", "evtstrm", "crc32", "cpuid"})
A76 = A72 | {"atomics", "asimddp"}


def verdict(version, *, cuda=None, arch="aarch64", features=A72, bits=64):
    return torch_verdict(TorchFacts(arch=arch, bits=bits, features=features, version=version, cuda=cuda))


@pytest.mark.parametrize(
    ("version", "cuda", "features", "ok"),
    [
        ("2.6.0", None, A72, True),
        ("2.9.1", None, A72, True),
        ("2.9.1", None, A76, True),
        ("2.10.0", None, A72, False),
        ("2.10.0", None, A76, None),
        ("2.10.0", None, frozenset(), None),
        ("2.11.0", "12.9", A72, False),
        ("2.15.1", "13.0", A72, False),
        ("2.13.0", "13.0", A76, None),
        ("2.13.0+cpu", None, A72, True),
        ("2.5.1", None, A76, None),
    ],
)
def test_verdict_on_aarch64(version, cuda, features, ok):
    check = verdict(version, cuda=cuda, features=features)
    assert check.name == "torch"
    assert check.ok is ok
    assert version in check.detail
    assert ("2.9.1" in check.remedy) is (ok is not True)


def test_sentences_for_a_raspberry_pi_4():
    assert verdict("2.10.0").detail == (
        "torch 2.10.0 dies at import on this processor (illegal instruction)."
    )
    assert verdict("2.12.0", cuda="13.0").detail == (
        "torch 2.12.0 is a CUDA build; with two threads its matrix product dies on this processor "
        "(illegal instruction)."
    )
    assert "2.9 GB" in verdict("2.12.0", cuda="13.0", features=A76).detail
    assert "python3-torch 2.6" in verdict("2.10.0").remedy


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "2.9.1+cu128"])
def test_other_processors_take_any_build(version):
    assert verdict(version, arch="x86_64", features=frozenset({"sse2"})).ok is True
    assert verdict(version, arch="arm64", features=frozenset()).ok is True  # an Apple machine


@pytest.mark.parametrize(("arch", "bits"), [("armv7l", 32), ("aarch64", 32), ("i686", 32)])
def test_32_bits_are_unsupported(arch, bits):
    check = verdict(None, arch=arch, bits=bits)
    assert check.ok is False
    assert "64-bit" in check.remedy


def test_missing_torch_is_a_warning_that_knows_the_machine():
    assert verdict(None).ok is None
    assert "2.9.1" in verdict(None).remedy
    assert "hedgerow[edge]" in verdict(None, arch="x86_64").remedy


def test_unreadable_version_is_a_warning():
    assert verdict("nightly").ok is None


@pytest.mark.parametrize(
    ("cuda_line", "cuda"),
    [
        ("cuda: Optional[str] = None", None),
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.8'", "12.8"),
    ],
)
def test_version_file_is_read_as_text(tmp_path, cuda_line, cuda):
    path = tmp_path / "version.py"
    path.write_text(f"from typing import Optional\n__version__ = '2.12.1'\n{cuda_line}\nhip = '6'\n")
    assert read_version_file(path) == ("2.12.1", cuda)


def test_absent_or_foreign_version_file_tells_nothing(tmp_path):
    assert read_version_file(tmp_path / "version.py") == (None, None)
    (tmp_path / "version.py").write_bytes(b"\xff\x00")
    assert read_version_file(tmp_path / "version.py") == (None, None)


def test_installed_torch_agrees_with_its_metadata():
    import importlib.metadata

    version, _cuda = installed_torch()
    assert version == importlib.metadata.version("torch")
