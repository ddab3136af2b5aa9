"""Small files of the kernel (``/proc``, ``/sys``), read without ever raising.

Every reader takes ``root``, so that a test, or a container that mounts the host's files elsewhere, can point
it at another tree.
"""

from pathlib import Path

# A pseudo file is a page or two. The cap keeps a probe cheap even where the tree is not a real /proc.
MAX_BYTES = 256 * 1024


def read_text(path: Path) -> str | None:
    """Return the stripped text of a small file, or None when it is absent or unreadable.

    Device-tree strings end in a NUL byte, which is removed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError:  # absent, no permission, or a driver that answers EINVAL or EAGAIN
        return None
    return data.decode("utf-8", errors="replace").strip("\x00 \t\r\n")


def read_int(path: Path) -> int | None:
    """Return the decimal number in a file, or None when there is none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def list_folder(path: Path) -> list[Path]:
    """Return the entries of a folder by name, and an empty list when it cannot be listed."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def cpu_features(root: Path = Path("/")) -> frozenset[str]:
    """Return the instruction-set features of the first processor in ``/proc/cpuinfo``.

    The line is called ``Features`` on ARM (``fp asimd aes atomics ...``) and ``flags`` on x86. Empty when
    unknown.
    """
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip() in ("Features", "flags"):
            return frozenset(value.split())
    return frozenset()
