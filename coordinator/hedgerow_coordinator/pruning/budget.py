"""Budgets: how many weights each tensor keeps.

Density is the number of live weights over all parameters of the layout, tensors that are never pruned
included, and it is met to the weight. The division is integer arithmetic, so it is equal on every
machine.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, divide
from hedgerow_coordinator.errors import DensityError
from hedgerow_coordinator.pruning.selection import largest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """What a budget divides.

    Parameters
    ----------
    layout : Layout
    live : ndarray, bool, shape (num_parameters,), or None
        Weights that may be kept; None means all of them. A budget never gives a tensor more than it has live.
    protect : tuple[str, ...]
        Names of tensors that stay as they are, beside those that the layout calls not prunable.
    scores : ndarray, float32, shape (num_parameters,), or None
        Needed by `global_budget` alone.
    lamp : ndarray, float32, shape (num_parameters,), or None
        Needed by `lamp_budget` alone.
    least : int
        Each tensor keeps at least so many weights (or all, where it has fewer). 0 lets a tensor go empty.
    """

    layout: Layout
    live: NDArray[np.bool_] | None = None
    protect: tuple[str, ...] = ()
    scores: NDArray[np.float32] | None = None
    lamp: NDArray[np.float32] | None = None
    least: int = 1
    available: tuple[int, ...] = field(init=False)
    prunable: tuple[bool, ...] = field(init=False)

    def __post_init__(self) -> None:
        tensors, offsets = self.layout.tensors, self.layout.offsets
        if self.live is None:
            available = tuple(tensor.size for tensor in tensors)
        else:
            self.layout.check_flat(self.live)
            spans = itertools.pairwise(offsets)
            available = tuple(int(np.count_nonzero(self.live[start:end])) for start, end in spans)
        protected = frozenset(self.protect)
        object.__setattr__(self, "available", available)
        object.__setattr__(self, "prunable", tuple(t.prunable and t.name not in protected for t in tensors))

    def floors(self) -> list[int]:
        """Return the least number of weights for each tensor: all of them where it is not pruned."""
        pairs = zip(self.available, self.prunable, strict=True)
        return [min(self.least, count) if prunable else count for count, prunable in pairs]

    def total(self, density: float) -> int:
        """Return how many weights are live at `density`, in (0, 1]; at most as many as there are.

        Raises
        ------
        DensityError
            The tensors that are not pruned, and the least that the others keep, are more than that.
        """
        num_parameters = self.layout.num_parameters
        # Rounded down, so that the density asked for is never exceeded; the addend outweighs the product's
        # own rounding.
        total, needed = math.floor(density * num_parameters + 1e-6), sum(self.floors())
        if total < needed:
            fixed = sum(n for n, prunable in zip(self.available, self.prunable, strict=True) if not prunable)
            least_density = math.ceil(10_000 * needed / num_parameters) / 10_000
            raise DensityError(
                f"density {density:g} leaves {total} of {num_parameters} weights, but the tensors that are "
                f"never pruned hold {fixed} and the others keep at least {self.least} each: "
                f"the least possible density is {least_density:g}",
                density=density,
                least_density=least_density,
            )
        return min(total, sum(self.available))


def uniform_budget(candidates: Candidates, density: float) -> tuple[int, ...]:
    """Give every prunable tensor the same density.

    Returns
    -------
    tuple[int, ...]
        Live weights for each tensor, in layout order; they add up to ``floor(density * num_parameters)``, or
        to what is live where that is less.

    Raises
    ------
    DensityError
        See `Candidates.total`.
    """
    return _divided(candidates, density, [tensor.size for tensor in candidates.layout.tensors])


def erk_budget(candidates: Candidates, density: float) -> tuple[int, ...]:
    """Give larger tensors a lower density: Erdős-Rényi-Kernel (Evci et al. 2020, section 3).

    A tensor's density is proportional to the sum over the product of its dimensions (kernel dimensions
    included), clipped at 1: its number of weights is thus proportional to the plain sum. Returns and raises
    as `uniform_budget`.
    """
    return _divided(candidates, density, [max(1, sum(tensor.shape)) for tensor in candidates.layout.tensors])


def er_budget(candidates: Candidates, density: float) -> tuple[int, ...]:
    """Give larger tensors a lower density by their numbers of outputs and inputs alone: Erdős-Rényi.

    Mocanu et al. 2018, as in Evci et al. 2020, section 3: a tensor's density is proportional to
    ``(n_in + n_out) / (n_in n_out)``, so its number of weights to ``(n_in + n_out)`` times the size of its
    kernel. Returns and raises as `uniform_budget`.
    """
    tensors = candidates.layout.tensors
    shares = [max(1, sum(tensor.shape[:2]) * math.prod(tensor.shape[2:])) for tensor in tensors]
    return _divided(candidates, density, shares)


def lamp_budget(candidates: Candidates, density: float) -> tuple[int, ...]:
    """Give each tensor as many weights as it has among the best of the whole model by their LAMP scores.

    Lee et al. 2021: the budget of LAMP, whatever score then chooses within the tensors. Returns and raises as
    `global_budget`.
    """
    if candidates.lamp is None:
        raise ValueError("a LAMP budget needs LAMP scores")
    return global_budget(replace(candidates, scores=candidates.lamp), density)


def global_budget(candidates: Candidates, density: float) -> tuple[int, ...]:
    """Give each tensor as many weights as it has among the best of the whole model.

    Returns and raises as `uniform_budget`; a tensor left with fewer than `Candidates.least` weights gets
    those first.
    """
    if candidates.scores is None:
        raise ValueError("a global budget needs scores")
    counts, total = candidates.floors(), candidates.total(density)
    open_tensors = np.array(candidates.prunable, np.bool_)
    sizes = [tensor.size for tensor in candidates.layout.tensors]
    while True:
        eligible = np.repeat(open_tensors, sizes)
        if candidates.live is not None:
            eligible &= candidates.live
        pinned = sum(count for count, is_open in zip(counts, open_tensors, strict=True) if not is_open)
        chosen = eligible
        chosen[eligible] = largest(candidates.scores[eligible], total - pinned)
        won = np.add.reduceat(chosen, candidates.layout.offsets[:-1], dtype=np.int64)
        short = open_tensors & (won < counts)
        if not short.any():
            return tuple(int(n) for n in np.where(open_tensors, won, counts))
        open_tensors &= ~short


def _divided(candidates: Candidates, density: float, shares: list[int]) -> tuple[int, ...]:
    floors, total = candidates.floors(), candidates.total(density)
    return divide(total, shares=shares, least=floors, most=candidates.available)


Budget = Callable[[Candidates, float], tuple[int, ...]]
BUDGETS: Mapping[str, Budget] = {
    "erk": erk_budget,
    "er": er_budget,
    "uniform": uniform_budget,
    "global": global_budget,
    "lamp": lamp_budget,
}
# Budgets that are no division of a density.
OUTCOME_BUDGETS: Mapping[str, str] = {"threshold": "what scores at least `threshold`"}
