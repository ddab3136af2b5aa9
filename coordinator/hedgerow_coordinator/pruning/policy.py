"""A pruning policy: which weights a round trains, as a value composed from the plan."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.pruning.budget import BUDGETS, Candidates
from hedgerow_coordinator.pruning.schedule import SCHEDULES
from hedgerow_coordinator.pruning.score import SCORES, random_scores
from hedgerow_coordinator.pruning.selection import select
from hedgerow_coordinator.settings import check_choice, check_range

POLICIES = ("server", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPolicy:
    """The ``[pruning]`` table of a plan.

    Parameters
    ----------
    policy : str
        ``server``: the coordinator prunes by its own weights. ``none``: every weight stays, and no other
        field counts.
    score, budget, schedule : str
        Names in `SCORES`, `BUDGETS` and `SCHEDULES`.
    density : float
        Live weights over all parameters at the end, in (0, 1].
    initial_density : float
        The same before `start_round`, from `density` to 1 inclusive.
    start_round, end_round : int
        Rounds in which the density starts and has ended to fall, from 1.
    every : int
        Rounds from one change of the mask to the next.
    protect : tuple[str, ...]
        Names of tensors that are not pruned, beside those that the layout calls not prunable.

    Raises
    ------
    SettingError
        A value breaks its rule.
    """

    policy: str = "server"
    score: str = "magnitude"
    budget: str = "erk"
    schedule: str = "cubic"
    density: float = 0.2
    initial_density: float = 1.0
    start_round: int = 2
    end_round: int = 14
    every: int = 1
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, POLICIES)
        check_choice("score", self.score, SCORES)
        check_choice("budget", self.budget, BUDGETS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_range("density", self.density, above=0, most=1)
        check_range("initial_density", self.initial_density, least=self.density, most=1)
        check_range("start_round", self.start_round, least=1)
        check_range("end_round", self.end_round, least=self.start_round)
        check_range("every", self.every, least=1)

    @property
    def prunes(self) -> bool:
        """Whether this policy ever takes a weight away."""
        return self.policy != "none" and self.density < 1

    def density_at(self, round_number: int) -> float:
        """Return the density of the mask under which a round (from 1) trains, in (0, 1]."""
        return SCHEDULES[self.schedule](self, round_number) if self.prunes else 1.0

    def check(self, layout: Layout) -> None:
        """Check before the first round that this policy can be carried out on a model.

        Raises
        ------
        SettingError
            A protected tensor is not in the layout.
        DensityError
            The final density cannot be met.
        """
        names = [tensor.name for tensor in layout.tensors]
        for name in self.protect:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise SettingError(
                    f"names {name!r}, which is not a tensor of the model{hint}",
                    table="pruning",
                    key="protect",
                )
        if self.prunes:
            Candidates(layout=layout, protect=self.protect).total(self.density)


def prune(flat: NDArray[np.float32], *, mask: Mask, policy: PruningPolicy, round: int) -> Mask:
    """Make the mask under which a round trains. A pruned weight does not come back.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        The weights that the round starts from.
    mask : Mask
        The mask until now.
    policy : PruningPolicy
    round : int
        The round, from 1, that will train under the new mask.

    Returns
    -------
    Mask
        `mask` itself where it is not denser than the schedule says.

    Raises
    ------
    DensityError
        The density of this round cannot be met; `PruningPolicy.check` finds it out beforehand.
    PruningError
        A weight is not finite.
    """
    return _thinned(
        lambda: SCORES[policy.score](flat, mask.layout), mask=mask, policy=policy, round_number=round
    )


def initial_mask(
    flat: NDArray[np.float32], *, layout: Layout, policy: PruningPolicy, seed: int, by_score: bool = False
) -> Mask:
    """Make the mask of round 1.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        The first weights.
    layout : Layout
    policy : PruningPolicy
    seed : int
        0 to 2**64 - 1 inclusive.
    by_score : bool
        Choose by the policy's score, which says something about trained weights only; else at random.

    Returns
    -------
    Mask
        Dense where the policy begins dense. See `rescaled` for the weights under it.
    """

    def scores() -> NDArray[np.float32]:
        return SCORES[policy.score](flat, layout) if by_score else random_scores(layout, seed=seed)

    return _thinned(scores, mask=Mask.dense(layout), policy=policy, round_number=1)


def rescaled(flat: NDArray[np.float32], *, mask: Mask) -> NDArray[np.float32]:
    """Put first weights under an initial mask: multiply those that stay by 1/sqrt(density of their tensor).

    An untrained network under an unscaled random mask has too small activations and stays at chance for
    rounds: 1/sqrt(density) restores the variance that the initialisation was made for (Evci et al. 2022,
    "Gradient flow in sparse neural networks and how lottery tickets win", here with one scale per tensor).

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
    mask : Mask

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Zero at pruned positions.
    """
    scales = [
        np.sqrt(tensor.size / live) if live else 0.0
        for tensor, live in zip(mask.layout.tensors, mask.lengths, strict=True)
    ]
    live_scales = np.repeat(np.array(scales, np.float32), mask.lengths)
    return mask.scatter(mask.gather(flat) * live_scales)


def _thinned(
    make_scores: Callable[[], NDArray[np.float32]], *, mask: Mask, policy: PruningPolicy, round_number: int
) -> Mask:
    density = policy.density_at(round_number)
    candidates = Candidates(layout=mask.layout, live=mask.live, protect=policy.protect)
    if density == 1.0 or candidates.total(density) >= mask.num_live:
        return mask
    scores = make_scores()
    candidates = Candidates(layout=mask.layout, live=mask.live, protect=policy.protect, scores=scores)
    counts = BUDGETS[policy.budget](candidates, density)
    live = select(scores, layout=mask.layout, live=mask.live, counts=counts)
    return Mask(layout=mask.layout, live=live)
