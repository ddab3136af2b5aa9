"""Silence while torch's exporter works."""

from __future__ import annotations

import contextlib
import getpass
import io
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines from the user, and its cache from failing.

    torch names a cache folder after the user and raises where the user id has no name (in many containers).
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            _named_user(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _named_user() -> Iterator[None]:
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = "hedgerow"
        try:
            yield
        finally:
            os.environ.pop("USER", None)
    else:
        yield
