"""The codec contract, and the one table of codecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.mask import Mask


class Codec(Protocol):
    """Turns the live entries of an update into a payload and back (numcodecs' duck type)."""

    @property
    def codec_id(self) -> str: ...

    def get_config(self) -> dict[str, object]: ...

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes: ...

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate: ...


def codec_from_config(config: Mapping[str, object]) -> Codec:
    """Make a codec from its JSON configuration, ``{"codec_id": "deadzone", ...}``."""
    raise NotImplementedError
