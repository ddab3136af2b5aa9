"""Aggregation: the weighted mean of updates, in one accumulator (McMahan 2017, algorithm 1)."""

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import CodecError, DecodedUpdate, Mask
from hedgerow_coordinator.errors import AggregationError

MAX_WEIGHT = 1 << 24


class _Sum:
    """How many updates are in a sum, and what each must be to get there."""

    def __init__(self) -> None:
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

    def _add_to(self, total: NDArray[np.float64], update: DecodedUpdate, *, weight: int) -> None:
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            raise AggregationError(f"an update's weight must be from 1 to {MAX_WEIGHT}, not {weight}")
        if update.dense is not None and not np.isfinite(update.dense).all():
            raise AggregationError("the update holds a value that is not finite")
        try:
            update.add_to(total, weight=weight)
        except CodecError as error:
            raise AggregationError(f"the update cannot be added: {error}") from error
        self._weight += weight
        self._num_updates += 1


class Aggregator(_Sum):
    """Sum updates as they come.

    Updates in integer form are summed exactly, so their mean is the same to the bit in any order of arrival;
    those in float form are summed in float64, and their order may show in its last bits.

    Parameters
    ----------
    num_live : int
        Length of the live vector.
    """

    def __init__(self, num_live: int) -> None:
        super().__init__()
        self._total = np.zeros(num_live, np.float64)

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
        if update.mask.num_live != len(self._total):
            raise AggregationError(
                f"the update has {update.mask.num_live} values, this round's model has {len(self._total)}"
            )
        self._add_to(self._total, update, weight=weight)

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


class HeldAggregator(_Sum):
    """Sum updates of clients that hold different parts of the model: ``sum(n m d) / sum(n m)``.

    Sums run over the whole layout, exactly for updates in integer form. Where nobody holds a weight its mean
    is 0, so that it keeps its value.

    Parameters
    ----------
    mask : Mask
        The shared mask.
    """

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._shared = mask
        self._total = np.zeros(mask.layout.num_parameters, np.float64)
        self._held = np.zeros(mask.layout.num_parameters, np.int64)

    def add(self, update: DecodedUpdate, *, weight: int, positions: NDArray[np.int64] | None = None) -> None:
        """Add an update under whatever mask; nothing changes when it is refused.

        Parameters
        ----------
        update : DecodedUpdate
        weight : int
            See `Aggregator.add`.
        positions : ndarray, int64, shape (update.mask.num_live,), or None
            Where its entries are in the whole flat vector, for an update of a smaller layout.

        Raises
        ------
        AggregationError
            As `Aggregator.add`.
        """
        if positions is None:
            if update.mask.layout != self._shared.layout:
                raise AggregationError("the update is for another model")
            positions = update.mask.positions
        part = np.zeros(update.mask.num_live, np.float64)
        self._add_to(part, update, weight=weight)
        self._total[positions] += part
        self._held[positions] += weight

    def union(self) -> Mask:
        """Return the mask of what anybody holds; the shared one where there is no update."""
        if self._num_updates == 0:
            return self._shared
        return Mask(layout=self._shared.layout, live=self._held > 0)

    def shares(self) -> NDArray[np.float32]:
        """Return the share of the weight behind each parameter, 0 to 1, ``(num_parameters,)``."""
        return (self._held / max(self._weight, 1)).astype(np.float32)

    def mean(self, mask: Mask | None = None) -> NDArray[np.float64]:
        """Return the weighted mean over those who hold each weight.

        Parameters
        ----------
        mask : Mask or None
            Which weights are returned; None for the shared mask.

        Returns
        -------
        ndarray, float64, shape (mask.num_live,)

        Raises
        ------
        AggregationError
            There is no update.
        """
        if self._num_updates == 0:
            raise AggregationError("there is no update to average")
        mean = np.divide(self._total, self._held, out=np.zeros_like(self._total), where=self._held > 0)
        return (self._shared if mask is None else mask).gather(mean)
