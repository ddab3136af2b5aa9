"""Whether loops run as compiled code: where numba is installed, and there has been much to decode."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.stages.adaptive import Model

_log = logging.getLogger(__name__)
_WORTH_LOADING = 1 << 23
"""Symbols: numpy takes a tenth of a second for them, or as long as to load numba where messages are small."""


class Loops(Protocol):
    """What there is of compiled code."""

    def decode_lanes(
        self,
        states: NDArray[np.uint32],
        words: NDArray[np.uint16],
        bases: NDArray[np.uint8],
        *,
        model: Model,
        steps: int,
    ) -> NDArray[np.uint8]:
        """Decode symbols; `steps` are those of a lane."""
        ...

    def find_nonzero(self, symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the places of what is not 0, ascending."""
        ...


class _State:
    is_allowed = True
    decoded = 0


def compiled_loops(count: int = 0) -> Loops | None:
    """Return compiled loops; None where there are none, or this process has had too little to decode so far.

    To load them takes a second, once.

    Parameters
    ----------
    count : int
        Symbols that are about to be decoded.
    """
    _State.decoded += count
    return _load() if _State.is_allowed and _State.decoded >= _WORTH_LOADING else None


@contextmanager
def without_compiled_loops() -> Iterator[None]:
    """Decode by numpy alone meanwhile, in all threads: to compare."""
    before, _State.is_allowed = _State.is_allowed, False
    try:
        yield
    finally:
        _State.is_allowed = before


@cache
def _load() -> Loops | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from hedgerow_codecs.stages import numba_loops
    except (ImportError, OSError) as error:  # it takes only some versions of numpy, and says so
        _log.warning("numba is installed, but does not work here, so numpy decodes: %s", error)
        return None
    return numba_loops
