"""The optional packages: asked for before they are imported, so that their absence is a sentence."""

from __future__ import annotations

import importlib.util

from hedgerow_export.errors import MissingPackageError

_EXTRAS = {"onnx": "gateway", "onnxruntime": "gateway", "onnxscript": "init", "torch": "init"}


def require(*packages: str) -> None:
    """Make sure that packages can be imported.

    Raises
    ------
    MissingPackageError
        Names the first one that is not installed, and the extra that brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(
                f"{package} is not installed; install it with: pip install 'hedgerow[{_EXTRAS[package]}]'",
                package=package,
            )


def is_installed(package: str) -> bool:
    """Say whether a package can be imported, without doing it."""
    return importlib.util.find_spec(package) is not None
