"""Whether loops run as compiled code: where numba is installed, and there is much to decode."""

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
_WORTH_LOADING = 1 << 19
"""Symbols that numpy decodes in a tenth of the time that it takes to load numba, or less."""


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
    is_wanted = False  # before there was enough to decode


def compiled_loops(count: int) -> Loops | None:
    """Return compiled loops for so many symbols; None where there are none, or where numpy does as well.

    The first time that it is worth it takes a second to load them; from then on it always is.
    """
    _State.is_wanted = _State.is_wanted or count >= _WORTH_LOADING
    return _load() if _State.is_allowed and _State.is_wanted else None


@contextmanager
def without_compiled_loops() -> Iterator[None]:
    """Decode by numpy alone meanwhile, in all threads: to compare."""
    _State.is_allowed = False
    try:
        yield
    finally:
        _State.is_allowed = True


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
