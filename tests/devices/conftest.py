"""A fake root: a tree with a few files of /proc and /sys."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def fake_root(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    def build(files: Mapping[str, str]) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return build
