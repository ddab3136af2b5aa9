"""Error feedback: what a lossy codec left out of one update goes into the next.

Sources: Seide 2014, Karimireddy 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorFeedback:
    """The part of all updates so far that was never sent.

    Parameters
    ----------
    residual : ndarray, float32, shape (num_parameters,)

    Examples
    --------
    >>> feedback = ErrorFeedback(residual=np.array([0.25, 0.0], np.float32))
    >>> compensated = feedback.compensate(np.array([0.5, 1.0], np.float32))
    >>> feedback.after(compensated, np.array([1.0, 1.0], np.float32)).residual
    array([-0.25,  0.  ], dtype=float32)
    """

    kind: ClassVar[str] = "residual"

    residual: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        if self.residual.ndim != 1 or self.residual.dtype != np.float32:
            raise LayoutError(
                f"residual must be a float32 vector, got {self.residual.dtype} of shape {self.residual.shape}"
            )

    @staticmethod
    def zero(layout: Layout) -> ErrorFeedback:
        """Start with nothing left unsent."""
        return ErrorFeedback(residual=np.zeros(layout.num_parameters, np.float32))

    @property
    def vector(self) -> NDArray[np.float32]:
        """The residual."""
        return self.residual

    def compensate(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `delta` plus the residual: what ought to be sent now, shape ``(num_parameters,)``."""
        self._check(delta)
        return delta + self.residual

    def after(self, compensated: NDArray[np.float32], sent: NDArray[np.float32]) -> ErrorFeedback:
        """Return the feedback once `sent` (as the receiver decodes it) went out for `compensated`.

        Call it only when the receiver has acknowledged: a lost update must stay in the residual.
        """
        self._check(compensated)
        self._check(sent)
        return ErrorFeedback(residual=compensated - sent)

    def decayed(self, decay: float) -> ErrorFeedback:
        """Return the feedback with `decay`, 0 to 1, of the residual.

        With coarse codecs what is owed grows old: as the model did not move, the next training wants the same
        again, and the debt is paid more than once. A share of the residual bounds that.
        """
        return ErrorFeedback(residual=self.residual * np.float32(decay))

    def remask(self, mask: Mask) -> ErrorFeedback:
        """Return the feedback under a new mask: what is owed to pruned parameters is forgotten."""
        mask.layout.check_flat(self.residual)
        return ErrorFeedback(residual=np.where(mask.live, self.residual, np.float32(0)))

    def _check(self, flat: NDArray[np.float32]) -> None:
        if flat.shape != self.residual.shape:
            raise LayoutError(f"flat vector must have shape {self.residual.shape}, got {flat.shape}")
