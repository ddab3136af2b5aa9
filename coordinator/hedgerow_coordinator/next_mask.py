"""After a round: what is known of the weights, the next mask, and what pruning remembers until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask
from hedgerow_coordinator.aiming import towards_target
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning import (
    UNDO_MASK,
    Evidence,
    Outcomes,
    PruningPolicy,
    Watch,
    chosen,
    learned,
    prune,
    react,
    softened,
)

if TYPE_CHECKING:
    from hedgerow_export import ChannelGroups

Vector = NDArray[np.float32]
Memory = Mapping[str, NDArray[np.generic]]
_UNDO_VALUES, _MOVEMENT = "undo-values", "movement"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """What a round has brought for pruning.

    Parameters
    ----------
    number : int
        The round that trained, from 1.
    state : ServerState
        The version that it trained on.
    mask : Mask
        What the mean is of.
    weights : ndarray, float32, shape (num_parameters,)
        After the mean.
    update : ndarray, float32, shape (num_parameters,)
        The mean update.
    scores, votes : ndarray, float32, shape (num_parameters,), or None
        What the devices have said besides.
    measured : Mapping[str, float]
        What the round's mask has come to, by the target's keys.
    outcomes : Outcomes or None
        What their updates say of the weights, for Thompson sampling.
    """

    number: int
    state: ServerState
    mask: Mask
    weights: Vector = field(repr=False)
    update: Vector = field(repr=False)
    scores: Vector | None = field(default=None, repr=False)
    votes: Vector | None = field(default=None, repr=False)
    measured: Mapping[str, float] = field(default_factory=dict)
    outcomes: Outcomes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """The next version's mask and weights, what is remembered, and what a reader of the journal is told."""

    mask: Mask
    weights: Vector = field(repr=False)
    memory: Memory = field(repr=False)
    watch: Watch
    events: tuple[tuple[str, str], ...] = ()


def next_mask(
    done: Round,
    *,
    policy: PruningPolicy,
    seed: int,
    first_weights: Callable[[], Vector],
    flow: Callable[[Vector], Vector] | None = None,
    groups: ChannelGroups | None = None,
) -> Pruned:
    """Make the mask and the weights that the next round begins with.

    A round in which what a score needs has not come leaves the mask as it is, with an event that says so; so
    does one after a drop of the metric, see `react`.

    Parameters
    ----------
    done : Round
    policy : PruningPolicy
    seed : int
        The run's.
    first_weights : callable
        Returns the weights of version 0, for `PruningPolicy.rewind`.
    flow : callable or None
    groups : ChannelGroups or None
        See `Evidence`.
    """
    state = done.state
    if policy.policy == "local" and done.votes is not None:
        # The mean of the pruned models: who has pruned a weight has a zero there.
        done = replace(done, weights=done.weights * done.votes)
    memory = _moved(done, policy=policy)
    watch, action = react(
        Watch.of_notes(state.notes),
        tolerance=policy.tolerance,
        reaction=policy.reaction,
        can_revert=UNDO_MASK in memory,
    )
    if action == "revert":
        return _reverted(done, memory=memory, watch=watch)
    watch, aimed = towards_target(
        watch, policy=policy, measured=done.measured, mask=state.mask, round_number=done.number
    )
    if watch.held or watch.met:
        watch = replace(watch, delay=watch.delay + 1)
    stay = Pruned(mask=state.mask, weights=done.weights, memory=memory, watch=watch)
    stay = replace(stay, events=(*_told(action, watch=watch, done=done), *aimed))
    if watch.stays:
        return stay
    # The schedule goes on where it was held.
    following = done.number + 1 - watch.delay
    if policy.policy == "soft":
        soft = done.weights
        if following == policy.start_round:
            soft = softened(done.weights, done.mask.layout, alpha=policy.threshold)
        return replace(stay, weights=soft)
    if policy.candidates and state.mask.num_live == state.weights.size:
        return _tried(done, stay=stay, policy=policy, seed=seed)
    evidence = Evidence(
        weights=done.weights,
        mask=done.mask,
        update=done.update,
        movement=_movement(memory),
        device=done.scores,
        votes=done.votes,
        memory=memory,
        round=following,
        seed=(seed * 0x9E3779B97F4A7C15 + done.number + 1) % (1 << 64),
        flow=flow,
        groups=groups,
    )
    try:
        mask = prune(done.weights, mask=done.mask, policy=policy, round=following, evidence=evidence)
    except PruningError as error:
        sentence = f"round {done.number + 1} keeps the mask of round {done.number}: {error}"
        return replace(stay, events=(*stay.events, ("pruning skipped", sentence)))
    if mask.digest == state.mask.digest:
        return stay
    weights = np.where(mask.live, first_weights(), np.float32(0)) if policy.rewind else done.weights
    if policy.latent and done.scores is not None:
        # What comes back has the value that it had behind the mask.
        weights = np.where(mask.live & ~done.mask.live, done.scores, weights)
    if policy.tolerance > 0 and policy.reaction == "revert":
        dropped = state.mask.live & ~mask.live
        undo: dict[str, NDArray[np.generic]] = {
            UNDO_MASK: np.packbits(state.mask.live),
            _UNDO_VALUES: done.weights[dropped],
        }
        memory = {**memory, **undo}
    return replace(stay, mask=mask, weights=weights, memory=memory)


def _tried(done: Round, *, stay: Pruned, policy: PruningPolicy, seed: int) -> Pruned:
    """Take the candidate that has done best on the devices; without their word all stays as it is."""
    try:
        mask, sentence = chosen(
            done.scores, published=done.state.published, policy=policy, mask=done.state.mask, seed=seed
        )
    except PruningError as error:
        sentence = f"round {done.number + 1} tries the candidates again: {error}"
        return replace(stay, events=(*stay.events, ("pruning skipped", sentence)))
    return replace(stay, mask=mask, events=(*stay.events, ("mask chosen", sentence)))


def _reverted(done: Round, *, memory: Mapping[str, NDArray[np.generic]], watch: Watch) -> Pruned:
    """Take the last change back: the mask before it, with the values that its weights had."""
    state = done.state
    bits = np.unpackbits(memory[UNDO_MASK].astype(np.uint8), count=state.weights.size).astype(np.bool_)
    mask = Mask(layout=state.mask.layout, live=bits)
    weights = np.where(state.mask.live, done.weights, np.float32(0))
    weights[mask.live & ~state.mask.live] = memory[_UNDO_VALUES].astype(np.float32)
    kept = {name: array for name, array in memory.items() if name not in (UNDO_MASK, _UNDO_VALUES)}
    return Pruned(
        mask=mask,
        weights=np.where(mask.live, weights, np.float32(0)),
        memory=kept,
        watch=watch,
        events=_told("revert", watch=watch, done=done, density=mask.density),
    )


def _told(
    action: str, *, watch: Watch, done: Round, density: float | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the event of what `react` has decided."""
    version, last, best = done.number - 1, watch.last, watch.best
    measured = f"version {version} has {_shown(last)}, the best had {_shown(best)}"
    now = done.state.mask.density
    sentences = {
        "hold": ("pruning held", f"{measured}: the density stays at {now:.4g} until it is back"),
        "resume": ("pruning resumed", f"{measured}: pruning goes on from density {now:.4g}"),
        "revert": (
            "pruning reverted",
            f"{measured}: the last change is taken back, from density {now:.4g} to {density or now:.4g}, "
            "and there will be no other",
        ),
    }
    return (sentences[action],) if action else ()


def _shown(metric: float | None) -> str:
    # A metric that is better when it is smaller is watched with its sign turned.
    return "no metric" if metric is None else f"{abs(metric):.4f}"


def _moved(done: Round, *, policy: PruningPolicy) -> dict[str, NDArray[np.generic]]:
    """Return what is remembered, with the movement of each weight since it is live where a score needs it."""
    memory: dict[str, NDArray[np.generic]] = dict(done.state.pruning)
    if policy.score == "movement":
        moved = done.state.weights * done.update
        if _MOVEMENT in memory:
            moved = memory[_MOVEMENT].astype(np.float32) + moved
        memory[_MOVEMENT] = np.where(done.mask.live, moved, np.float32(0)).astype(np.float32)
    if policy.policy == "thompson" and done.outcomes is not None:
        share = policy.open_at(done.number + 1)
        memory = learned(
            memory, done.outcomes, weights=done.weights, mask=done.mask, policy=policy, share=share
        )
    return memory


def _movement(memory: Memory) -> Vector | None:
    return memory[_MOVEMENT].astype(np.float32) if _MOVEMENT in memory else None
