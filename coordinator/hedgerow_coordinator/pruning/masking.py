"""From scores to masks: the first one, and the one after each round; equal on every machine."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask
from hedgerow_coordinator.pruning.adaptive import adaptive_live
from hedgerow_coordinator.pruning.budget import BUDGETS, Candidates
from hedgerow_coordinator.pruning.channels import channel_live
from hedgerow_coordinator.pruning.evidence import Evidence
from hedgerow_coordinator.pruning.policy import PruningPolicy
from hedgerow_coordinator.pruning.score import SCORES, Scores, lamp_scores, magnitude_scores, random_scores
from hedgerow_coordinator.pruning.selection import largest, select
from hedgerow_coordinator.pruning.synflow import FLOW_STEPS, flow_scored
from hedgerow_coordinator.pruning.thompson import sampled
from hedgerow_coordinator.pruning.trial import open_tensors

# Scores that say something about weights alone, without anything that came in.
_OF_WEIGHTS = ("magnitude", "lamp", "row-norm", "synflow", "random")


def prune(
    flat: NDArray[np.float32],
    *,
    mask: Mask,
    policy: PruningPolicy,
    round: int,
    evidence: Evidence | None = None,
) -> Mask:
    """Make the mask under which a round trains.

    A pruned weight comes back only with `PruningPolicy.regrow`, by vote, or with the schedule ``adaptive``.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
        The weights that the round starts from.
    mask : Mask
        The mask until now; for votes, the union of the proposals.
    policy : PruningPolicy
    round : int
        The round, from 1, that will train under the new mask.
    evidence : Evidence or None
        What scores need besides; None where the weights are enough.

    Returns
    -------
    Mask
        `mask` itself where nothing changes.

    Raises
    ------
    DensityError
        The density of this round cannot be met; `PruningPolicy.check` finds it out beforehand.
    PruningError
        A weight is not finite, or what a score needs has not come.
    """
    known = evidence or Evidence(weights=flat, mask=mask, round=round, seed=round)
    if policy.density_is_outcome:
        return _outcome(known, policy=policy) if policy.changes_at(round) else mask
    if not policy.prunes:
        return mask
    if policy.channels_at(round) < 1:
        known = _narrowed(known, policy=policy, round_number=round)
    if policy.policy == "vote":
        return _thinned(_by_votes(known, policy=policy), known, policy=policy, round_number=round)
    if policy.policy == "thompson":
        return sampled(known, policy=policy) if policy.regrow_at(round) > 0 else mask
    if policy.policy == "local":
        # The union of what the devices have kept; it shrinks as they agree.
        is_last = round >= policy.end_round
        return _thinned(None, known, policy=policy, round_number=round) if is_last else mask
    if policy.latent:
        is_time = policy.changes_at(round) or known.device is not None
        return _competed(known, policy=policy, round_number=round) if is_time else mask
    share = policy.regrow_at(round)
    if share > 0 and policy.density_at(round) < 1:
        return _swapped(known, policy=policy, round_number=round, share=share)
    return _thinned(None, known, policy=policy, round_number=round)


def initial_mask(
    flat: NDArray[np.float32],
    *,
    layout: Layout,
    policy: PruningPolicy,
    seed: int,
    by_score: bool = False,
    evidence: Evidence | None = None,
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
        Choose by the policy's score, for trained weights (by magnitude where the score needs what has not
        come yet); else at random, unless the score is one for untrained weights.
    evidence : Evidence or None
        Gives SynFlow its graph.

    Returns
    -------
    Mask
        Dense where the policy begins dense. See `rescaled` for the weights under it.
    """
    dense = Mask.dense(layout)
    known = evidence or Evidence(weights=flat, mask=dense)
    known = replace(known, seed=seed)
    if policy.channels_at(1) < 1:
        known = _narrowed(known, policy=policy, round_number=1)
    if policy.density_is_outcome or policy.density_at(1) == 1.0:
        return known.mask
    score = SCORES[policy.score]
    if policy.score in _OF_WEIGHTS and (by_score or score.scores_untrained):
        scores = None
    elif by_score:
        scores = magnitude_scores(flat, layout)
    else:
        scores = random_scores(layout, seed=seed)
    first = replace(policy, budget=policy.initial_budget or policy.budget)
    return _thinned(scores, known, policy=first, round_number=1)


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


def _thinned(scores: Scores | None, known: Evidence, *, policy: PruningPolicy, round_number: int) -> Mask:
    """Keep the best of the live weights at the round's density; `scores` None computes the policy's own."""
    mask, density = known.mask, policy.density_at(round_number)
    candidates = Candidates(layout=mask.layout, live=mask.live, protect=policy.protect)
    if density == 1.0 or candidates.total(density) >= mask.num_live:
        return mask
    if scores is None and policy.score == "synflow":
        # Pruning by SynFlow in one step collapses layers; Tanaka 2020 takes a hundred.
        return flow_scored(
            known,
            densities=_steps(mask.density, density, FLOW_STEPS),
            thin=lambda found, evidence, reached: _at(found, evidence, policy=policy, density=reached),
        )
    return _at(
        SCORES[policy.score].compute(known) if scores is None else scores,
        known,
        policy=policy,
        density=density,
    )


def _narrowed(known: Evidence, *, policy: PruningPolicy, round_number: int) -> Evidence:
    """Take channels away, as the round's share says."""
    live = channel_live(
        known,
        score=policy.channel_score,
        share=policy.channels_at(round_number),
        protect=policy.protect,
    )
    if np.array_equal(live, known.mask.live):
        return known
    return replace(known, mask=Mask(layout=known.mask.layout, live=live))


def _at(scores: Scores, known: Evidence, *, policy: PruningPolicy, density: float) -> Mask:
    mask = known.mask
    counts = _counts(scores, known, policy=policy, density=density, live=mask.live)
    live = select(scores, layout=mask.layout, live=mask.live, counts=counts)
    return Mask(layout=mask.layout, live=live)


def _counts(
    scores: Scores, known: Evidence, *, policy: PruningPolicy, density: float, live: NDArray[np.bool_] | None
) -> tuple[int, ...]:
    layout = known.mask.layout
    lamp = None
    if policy.budget == "lamp":
        lamp = lamp_scores(np.where(known.mask.live, known.weights, np.float32(0)), layout)
    candidates = Candidates(layout=layout, live=live, protect=policy.protect, scores=scores, lamp=lamp)
    return BUDGETS[policy.budget](candidates, density)


def _steps(first: float, last: float, number: int) -> Sequence[float]:
    """Return densities that fall by one factor from step to step; the last one is met to the bit."""
    return [round(first * (last / first) ** (step / number), 12) for step in range(1, number)] + [last]


def _competed(known: Evidence, *, policy: PruningPolicy, round_number: int) -> Mask:
    """Choose among all weights, pruned ones by what the devices have made of them behind the mask.

    Lin et al. 2020, "Dynamic model pruning with feedback", section 3: the mask is made anew of all weights.
    """
    mask = known.mask
    # Raises where nothing has come.
    behind = SCORES["gradient"].compute(known)
    now = magnitude_scores(known.weights, mask.layout)
    scores = np.where(mask.live, now, behind)
    density = policy.density_at(round_number)
    counts = _counts(scores, known, policy=policy, density=density, live=None)
    live = select(scores, layout=mask.layout, live=np.ones_like(mask.live), counts=counts)
    return mask if np.array_equal(live, mask.live) else Mask(layout=mask.layout, live=live)


def _swapped(known: Evidence, *, policy: PruningPolicy, round_number: int, share: float) -> Mask:
    """Drop the weakest live weights and let pruned ones grow, each tensor to its budget.

    Evci et al. 2020 (RigL), algorithm 1. What was dropped just now comes back only where fewer weights were
    pruned than may grow.
    """
    mask, layout = known.mask, known.mask.layout
    block = open_tensors(layout, policy=policy, round_number=round_number)
    scores, growth = SCORES[policy.score].compute(known), SCORES[policy.grow].compute(known)
    by_rank = policy.budget in ("global", "lamp")
    counts = _counts(
        scores,
        known,
        policy=policy,
        density=policy.density_at(round_number),
        live=mask.live if by_rank else None,
    )
    if policy.blocks or policy.candidates:
        counts = mask.lengths
    keep = []
    for tensor, count, there in zip(layout.tensors, counts, mask.lengths, strict=True):
        fixed = tensor.name not in block
        dropped = 0 if fixed else int(share * min(count, there))
        keep.append(min(count - dropped, there))
    kept = select(scores, layout=layout, live=mask.live, counts=keep)
    live = kept.copy()
    for (start, end), count in zip(pairwise(layout.offsets), counts, strict=True):
        part, before = live[start:end], mask.live[start:end]
        for candidates, order in ((~before, growth), (before & ~kept[start:end], scores)):
            places = np.flatnonzero(candidates)
            wanted = min(count - int(np.count_nonzero(part)), len(places))
            part[places[largest(order[start:end][places], wanted)]] = True
    return mask if np.array_equal(live, mask.live) else Mask(layout=layout, live=live)


def _by_votes(known: Evidence, *, policy: PruningPolicy) -> Scores:
    """Rank the union: what has enough votes by magnitude, grown weights by votes; the rest by votes, last.

    A weight that was grown at the end of training is still zero, and many are: votes tell them apart.
    """
    ranks = magnitude_scores(np.where(known.mask.live, known.weights, np.float32(0)), known.mask.layout)
    votes = np.ones_like(ranks) if known.votes is None else known.votes
    least = ranks[ranks > 0].min(initial=np.float32(1))
    ranks = np.where(ranks > 0, ranks, least * np.float32(0.5) * votes)
    return np.where(votes >= np.float32(policy.vote_threshold), ranks, votes - np.float32(2))


def _outcome(known: Evidence, *, policy: PruningPolicy) -> Mask:
    """Make a mask whose density comes of the scores; each tensor keeps its best weight at least."""
    mask, layout = known.mask, known.mask.layout
    scores = SCORES[policy.score].compute(known)
    if policy.schedule == "adaptive":
        chosen = adaptive_live(scores, known, policy=policy)
    else:
        chosen = mask.live & (scores >= np.float32(policy.threshold))
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        if not tensor.prunable or tensor.name in policy.protect:
            chosen[start:end] = mask.live[start:end]
        elif not chosen[start:end].any():
            best = scores[start:end] == scores[start:end].max()
            chosen[start:end] = best & (mask.live[start:end] if mask.live[start:end].any() else True)
    return mask if np.array_equal(chosen, mask.live) else Mask(layout=layout, live=chosen)
