"""The kinds of error feedback that a plan can name, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.ef21 import Ef21Feedback
from hedgerow_codecs.feedback import ErrorFeedback
from hedgerow_codecs.mask import Mask


class Feedback(Protocol):
    """What a sender does with what its codec leaves out; `kind` is its word in `FEEDBACKS`."""

    kind: ClassVar[str]

    @property
    def vector(self) -> NDArray[np.float32]:
        """What the sender must keep from one update to the next, float32, shape ``(num_parameters,)``."""
        ...

    def compensate(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what ought to be sent for `delta`."""
        ...

    def after(self, compensated: NDArray[np.float32], sent: NDArray[np.float32]) -> Feedback:
        """Return the feedback once the receiver has taken `sent` for `compensated`."""
        ...

    def remask(self, mask: Mask) -> Feedback:
        """Return the feedback without its entries at pruned parameters."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoFeedback:
    """Forget what the codec leaves out: for codecs whose error is zero on average, and for comparison.

    Parameters
    ----------
    vector : ndarray, float32, shape (num_parameters,)
        Without meaning; it keeps the place of what other kinds keep.
    """

    kind: ClassVar[str] = "none"

    vector: NDArray[np.float32] = field(repr=False)

    def compensate(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `delta`."""
        return delta

    def after(self, compensated: NDArray[np.float32], sent: NDArray[np.float32]) -> NoFeedback:  # noqa: ARG002 -- the protocol has them
        """Return the same: nothing is kept."""
        return self

    def remask(self, mask: Mask) -> NoFeedback:
        """Return the same."""
        mask.layout.check_flat(self.vector)
        return self


# By the word that plans and messages use: makes the feedback from the vector that was kept, zeros at first.
FEEDBACKS: Mapping[str, Callable[[NDArray[np.float32]], Feedback]] = {
    ErrorFeedback.kind: lambda vector: ErrorFeedback(residual=vector),
    Ef21Feedback.kind: lambda vector: Ef21Feedback(estimate=vector),
    NoFeedback.kind: lambda vector: NoFeedback(vector=np.zeros_like(vector)),
}
