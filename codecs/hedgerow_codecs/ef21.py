"""EF21: error feedback that sends what changed since the last update, not what was left out of all.

Source: Richtarik, Sokolov, Fatkhullin 2021.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ef21Feedback:
    """What the receiver believes of a sender's delta: the sum of all that was sent.

    Takes the place of `ErrorFeedback` on the sender. The receiver must not apply what it decodes: it keeps
    the same value for each of its senders, moves it with `moved_by`, and applies the mean of the estimates.
    Both ends must mask it with the same masks in the same order; equal estimates have equal digests.

    Parameters
    ----------
    estimate : ndarray, float32, shape (num_parameters,)

    Examples
    --------
    >>> feedback = Ef21Feedback(estimate=np.array([0.5, 1.0], np.float32))
    >>> wanted = feedback.compensate(np.array([0.75, 1.0], np.float32))
    >>> wanted
    array([0.25, 0.  ], dtype=float32)
    >>> feedback.after(wanted, np.array([0.25, 0.0], np.float32)).estimate
    array([0.75, 1.  ], dtype=float32)
    """

    kind: ClassVar[str] = "ef21"

    estimate: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        if self.estimate.ndim != 1 or self.estimate.dtype != np.float32:
            raise LayoutError(
                f"estimate must be a float32 vector, got {self.estimate.dtype} of shape {self.estimate.shape}"
            )

    @staticmethod
    def zero(layout: Layout) -> Ef21Feedback:
        """Start with nothing sent."""
        return Ef21Feedback(estimate=np.zeros(layout.num_parameters, np.float32))

    @staticmethod
    def from_bytes(data: bytes, *, layout: Layout) -> Ef21Feedback:
        """Read what `to_bytes` has written.

        Raises
        ------
        LayoutError
            Anything else, or of a layout with another number of parameters.
        """
        num_bits = layout.num_parameters
        bits = np.frombuffer(data, np.uint8, count=min(-(-num_bits // 8), len(data)))
        if len(bits) < -(-num_bits // 8):
            raise LayoutError(f"an estimate of {num_bits} parameters has more than {len(data)} bytes")
        filled = np.unpackbits(bits, bitorder="little").astype(np.bool_)
        num_filled = int(np.count_nonzero(filled))
        if filled[num_bits:].any() or len(data) != len(bits) + 4 * num_filled:
            raise LayoutError(f"{len(data)} bytes are no estimate of {num_bits} parameters")
        values = np.frombuffer(data, "<f4", offset=len(bits))
        if not (np.isfinite(values) & (values != 0)).all():
            raise LayoutError("an estimate lists only finite values other than zero")
        estimate = np.zeros(num_bits, np.float32)
        estimate[filled[:num_bits]] = values
        return Ef21Feedback(estimate=estimate)

    def to_bytes(self) -> bytes:
        """Return the canonical form of transport/README.md, "Error feedback": a bitmap and what is not zero.

        At most ``4 * num_parameters`` bytes and an eighth of a byte for each parameter.
        """
        return b"".join(self._parts())

    @property
    def digest(self) -> bytes:
        """blake2b-128 of the canonical form."""
        hashed = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for part in self._parts():
            hashed.update(part)
        return hashed.digest()

    @property
    def vector(self) -> NDArray[np.float32]:
        """The estimate."""
        return self.estimate

    def compensate(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `delta` minus the estimate: what ought to be sent now, shape ``(num_parameters,)``."""
        self._check(delta)
        return delta - self.estimate

    def after(self, compensated: NDArray[np.float32], sent: NDArray[np.float32]) -> Ef21Feedback:
        """Return the feedback once `sent` (as the receiver decodes it) went out for `compensated`.

        Call it only when the receiver has acknowledged: both ends must add up the same.
        """
        self._check(compensated)
        return self.moved_by(sent)

    def moved_by(self, sent: NDArray[np.float32]) -> Ef21Feedback:
        """Return the feedback with `sent` added, in float32; all that a receiver does."""
        self._check(sent)
        return Ef21Feedback(estimate=self.estimate + sent)

    def remask(self, mask: Mask) -> Ef21Feedback:
        """Return the feedback under a new mask: what was believed of pruned parameters is forgotten."""
        mask.layout.check_flat(self.estimate)
        return Ef21Feedback(estimate=np.where(mask.live, self.estimate, np.float32(0)))

    def _parts(self) -> tuple[bytes, bytes]:
        filled = self.estimate != 0
        bits = np.packbits(filled, bitorder="little").tobytes()
        return bits, self.estimate[filled].astype("<f4", copy=False).tobytes()

    def _check(self, flat: NDArray[np.float32]) -> None:
        if flat.shape != self.estimate.shape:
            raise LayoutError(f"flat vector must have shape {self.estimate.shape}, got {flat.shape}")
