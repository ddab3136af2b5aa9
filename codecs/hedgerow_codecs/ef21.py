"""EF21: error feedback that sends what changed since the last update, not what was left out of all.

Source: Richtarik, Sokolov, Fatkhullin 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ef21Feedback:
    """What the receiver believes of a sender's delta: the sum of all that was sent.

    Takes the place of `ErrorFeedback` on the sender. The receiver must not apply what it decodes: it keeps a
    value of this class, too, for the (weighted) mean of its senders, moves it with `after` by the mean of
    what they sent, and applies its `estimate`. Senders that stay away keep their part in it.

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

    def compensate(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `delta` minus the estimate: what ought to be sent now, shape ``(num_parameters,)``."""
        self._check(delta)
        return delta - self.estimate

    def after(self, compensated: NDArray[np.float32], sent: NDArray[np.float32]) -> Ef21Feedback:
        """Return the feedback once `sent` (as the receiver decodes it) went out for `compensated`.

        Call it only when the receiver has acknowledged: both ends must add up the same.
        """
        self._check(compensated)
        self._check(sent)
        return Ef21Feedback(estimate=self.estimate + sent)

    def remask(self, mask: Mask) -> Ef21Feedback:
        """Return the feedback under a new mask: what was believed of pruned parameters is forgotten."""
        mask.layout.check_flat(self.estimate)
        return Ef21Feedback(estimate=np.where(mask.live, self.estimate, np.float32(0)))

    def _check(self, flat: NDArray[np.float32]) -> None:
        if flat.shape != self.estimate.shape:
            raise LayoutError(f"flat vector must have shape {self.estimate.shape}, got {flat.shape}")
