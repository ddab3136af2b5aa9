"""Outcomes of a round for Thompson sampling: which weights are the strongest with how many devices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import DecodedUpdate, Mask
from hedgerow_coordinator.pruning import Outcomes, core_live


class OutcomeSum:
    """Count, update by update, what each device's own model says of the weights.

    Whole numbers are added, so that the outcome does not depend on the order of arrival.

    Parameters
    ----------
    mask
        Of the round.
    published
        The weights that every device holds.
    share
        Of each tensor's live weights, those that are no core; see `core_live`.
    protect
        Tensors that are not pruned.
    """

    def __init__(
        self, mask: Mask, *, published: NDArray[np.float32], share: float, protect: tuple[str, ...]
    ) -> None:
        self._mask, self._published, self._share, self._protect = mask, published, share, protect
        self._core = np.zeros(mask.layout.num_parameters, np.int64)
        self._wanted = np.zeros(mask.layout.num_parameters, np.int64)
        self._weight = self._weight_of_wishes = 0

    def add(self, update: DecodedUpdate, *, wanted: Mask | None, weight: int) -> None:
        """Add a device's update, and the mask of the live weights and those that it wants besides."""
        own = self._published.copy()
        own[update.mask.positions] += update.values()
        core = core_live(own, mask=self._mask, share=self._share, protect=self._protect)
        self._core[core] += weight
        self._weight += weight
        if wanted is not None:
            self._wanted[wanted.live & ~self._mask.live] += weight
            self._weight_of_wishes += weight

    def outcomes(self) -> Outcomes:
        """Return the shares of the devices' samples; nobody's are 0."""
        core = (self._core / max(self._weight, 1)).astype(np.float32)
        if self._weight_of_wishes == 0:
            return Outcomes(core=core)
        return Outcomes(core=core, wanted=(self._wanted / self._weight_of_wishes).astype(np.float32))
