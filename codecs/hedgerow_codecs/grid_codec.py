"""What the codecs on the grid have in common: a pipeline, and the integers that come out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.config import config_of
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.grid import MAX_MAGNITUDE
from hedgerow_codecs.live_values import check_encodable
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.stages.context import ContextCoder
from hedgerow_codecs.stages.signal import Signal, Stage, run_decode, run_encode

WRITE_CODES = ContextCoder()


class GridCodec(ABC):
    """A codec that is a pipeline and nothing else; a dataclass, whose fields are its configuration."""

    __slots__ = ()
    codec_id: ClassVar[str]

    @abstractmethod
    def _stages(self) -> tuple[Stage, ...]:
        """Return the pipeline, in the order of encoding."""

    def get_config(self) -> dict[str, object]:
        """Return the JSON configuration."""
        return config_of(self)

    def encode(self, values: NDArray[np.float32], *, mask: Mask) -> bytes:
        """Encode a live vector; `UnencodableError` for NaN, infinity and magnitudes above 2**125."""
        return self.encode_with_decoded(values, mask=mask)[0]

    def encode_with_decoded(self, values: NDArray[np.float32], *, mask: Mask) -> tuple[bytes, DecodedUpdate]:
        """Encode, and return what `decode` would return for the payload, too."""
        return encode_on_grid(self._stages(), values, mask=mask)

    def decode(self, payload: bytes, *, mask: Mask) -> DecodedUpdate:
        """Decode a payload of this codec at whatever settings; `PayloadError` if malformed."""
        return decode_on_grid(self._stages(), payload, mask=mask)


def encode_on_grid(
    stages: Sequence[Stage], values: NDArray[np.float32], *, mask: Mask
) -> tuple[bytes, DecodedUpdate]:
    """Run a live vector through a pipeline that ends in bytes; return these and what they decode to."""
    check_encodable(values, mask=mask, max_magnitude=MAX_MAGNITUDE)
    signal = run_encode(stages, Signal(mask=mask, values=values))
    return signal.data, _integer_form(signal)


def decode_on_grid(stages: Sequence[Stage], payload: bytes, *, mask: Mask) -> DecodedUpdate:
    """Run a payload back through a pipeline to integer form."""
    return _integer_form(run_decode(stages, Signal(mask=mask, data=payload)))


def _integer_form(signal: Signal) -> DecodedUpdate:
    return DecodedUpdate(mask=signal.mask, positions=signal.positions, codes=signal.codes, steps=signal.steps)
