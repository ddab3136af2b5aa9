"""Aggregation: the weighted mean of updates, in one accumulator (McMahan 2017, algorithm 1)."""

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import CodecError, DecodedUpdate
from hedgerow_coordinator.errors import AggregationError

MAX_WEIGHT = 1 << 24


class Aggregator:
    """Sum updates as they come.

    Updates in integer form are summed exactly, so their mean is the same to the bit in any order of arrival;
    those in float form are summed in float64, and their order may show in its last bits.

    Parameters
    ----------
    num_live : int
        Length of the live vector.
    """

    def __init__(self, num_live: int) -> None:
        self._total = np.zeros(num_live, np.float64)
        self._weight = 0
        self._num_updates = 0

    @property
    def num_updates(self) -> int:
        """Number of updates in the sum."""
        return self._num_updates

    @property
    def total_weight(self) -> int:
        """Sum of their weights."""
        return self._weight

    def add(self, update: DecodedUpdate, *, weight: int) -> None:
        """Add an update; nothing changes when it is refused.

        Parameters
        ----------
        update : DecodedUpdate
            Under the mask of this round.
        weight : int
            Number of samples behind it, 1 to 2**24 inclusive.

        Raises
        ------
        AggregationError
            The weight is out of range, or the update is of another size or not finite.
        """
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            raise AggregationError(f"an update's weight must be from 1 to {MAX_WEIGHT}, not {weight}")
        if update.mask.num_live != len(self._total):
            raise AggregationError(
                f"the update has {update.mask.num_live} values, this round's model has {len(self._total)}"
            )
        if update.dense is not None and not np.isfinite(update.dense).all():
            raise AggregationError("the update holds a value that is not finite")
        try:
            update.add_to(self._total, weight=weight)
        except CodecError as error:
            raise AggregationError(f"the update cannot be added: {error}") from error
        self._weight += weight
        self._num_updates += 1

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean.

        Returns
        -------
        ndarray, float64, shape (num_live,)

        Raises
        ------
        AggregationError
            There is no update.
        """
        if self._num_updates == 0:
            raise AggregationError("there is no update to average")
        return self._total / self._weight
