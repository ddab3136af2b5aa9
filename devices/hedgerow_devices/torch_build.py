"""Which builds of torch run on which processor.

Found by trying: on a Cortex-A72 (Raspberry Pi 4: no ``atomics`` among the features of ``/proc/cpuinfo``)
torch 2.10 dies at import, and the aarch64 wheels of 2.11 to 2.15 on the package index are CUDA builds whose
matrix product dies with two threads. 2.9.1 and Debian's 2.6 work.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from hedgerow_devices.check import Check
from hedgerow_devices.kernel_files import cpu_features
from hedgerow_devices.profile import Profile

_PI_REMEDY = "Install torch 2.9.1 (pip install 'torch==2.9.1'), or Debian's python3-torch 2.6."
_ANY_REMEDY = "Install it with: pip install 'hedgerow[edge]'"
_OLDEST = (2, 6)
_MAX_VERSION_FILE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFacts:
    """What the verdict rests on.

    Attributes
    ----------
    arch : str
        ``aarch64``, ``x86_64``, ``armv7l``, ...
    bits : int
        Pointer size of this Python, 32 or 64.
    features : frozenset of str
        Instruction-set features; empty when unknown.
    version : str or None
        torch's version; None when torch is not installed.
    cuda : str or None
        CUDA version that torch was built for; None for a CPU build.
    """

    arch: str
    bits: int = 64
    features: frozenset[str] = frozenset()
    version: str | None = None
    cuda: str | None = None

    @classmethod
    def read(cls, root: Path = Path("/")) -> "TorchFacts":
        """Find the facts on this machine without importing torch (the import may be what crashes)."""
        profile = Profile.read(root)
        version, cuda = installed_torch()
        return cls(
            arch=profile.arch, bits=profile.bits, features=cpu_features(root), version=version, cuda=cuda
        )


def torch_verdict(facts: TorchFacts) -> Check:
    """Say whether this build of torch runs on this processor.

    Returns
    -------
    Check
        Named ``torch``. False where it is known to crash, None where it is missing or has a drawback.
    """
    ok, detail, remedy = _judge(facts)
    return Check(name="torch", ok=ok, detail=detail, remedy=remedy)


def installed_torch() -> tuple[str | None, str | None]:
    """Return (version, CUDA version or None) of the installed torch, and (None, None) without one."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None, None
    if spec is None or spec.origin is None:
        return None, None
    return read_version_file(Path(spec.origin).with_name("version.py"))


def read_version_file(path: Path) -> tuple[str | None, str | None]:
    """Return (version, CUDA version or None) from torch's generated ``version.py``, read as text."""
    try:
        text = path.read_bytes()[:_MAX_VERSION_FILE].decode("utf-8", errors="replace")
    except OSError:
        return None, None
    version = re.search(r"^__version__\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return (version[1] if version else None), (cuda[1] if cuda else None)


def _judge(facts: TorchFacts) -> tuple[bool | None, str, str]:
    on_arm = facts.arch == "aarch64"  # Linux; an Apple machine says arm64 and has other wheels
    if facts.bits == 32:
        return False, "There is no torch for a 32-bit system.", "Install a 64-bit operating system."
    if facts.version is None:
        return (
            None,
            "torch is not installed. A device that trains needs it; the coordinator does not.",
            _PI_REMEDY if on_arm else _ANY_REMEDY,
        )
    number = _number(facts.version)
    if number is None:
        return None, f"torch {facts.version} has a version that cannot be judged.", ""
    name = f"torch {facts.version}"
    if number < _OLDEST:
        return (
            None,
            f"{name} is older than the oldest one tried (2.6).",
            _PI_REMEDY if on_arm else _ANY_REMEDY,
        )
    if not on_arm:
        return True, f"{name}, {_build(facts)}.", ""
    return _judge_arm(facts, number, name)


def _judge_arm(facts: TorchFacts, number: tuple[int, int], name: str) -> tuple[bool | None, str, str]:
    old_core = bool(facts.features) and "atomics" not in facts.features
    if number == (2, 10):
        if old_core:
            return False, f"{name} dies at import on this processor (illegal instruction).", _PI_REMEDY
        return (
            None,
            f"{name} dies at import on a Raspberry Pi 4, and was not tried on newer ones.",
            _PI_REMEDY,
        )
    if facts.cuda is not None:
        if old_core:
            return (
                False,
                f"{name} is a CUDA build; with two threads its matrix product dies on this processor "
                "(illegal instruction).",
                _PI_REMEDY,
            )
        return (
            None,
            f"{name} is a CUDA build: it brings 2.9 GB of packages that this device cannot use.",
            _PI_REMEDY,
        )
    return True, f"{name}, {_build(facts)}.", ""


def _build(facts: TorchFacts) -> str:
    return "CPU build" if facts.cuda is None else f"built for CUDA {facts.cuda}"


def _number(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None
