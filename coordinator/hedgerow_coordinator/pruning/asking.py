"""What a policy asks of the devices beside their updates, and what it tells them of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hedgerow_coordinator.pruning.score import SCORES
from hedgerow_coordinator.pruning.trial import block_at

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.policy import PruningPolicy

# What pruned weights have become on the devices: a score, and the value with which they come back.
LATENT = "latent"


def question_of(
    policy: PruningPolicy,
    round_number: int,
    *,
    is_behind: bool = False,
    seed: int = 0,
) -> dict[str, object]:
    """Return what the devices are asked for in a round, beside their update; empty for nothing.

    Where the mask `is_behind` the schedule, because an earlier answer has not come, it is asked again.

    ``kind``: a kind of `hedgerow_edge_client.scores`; ``form``: ``values``, ``mask`` or ``indices``;
    ``batches``; ``at``: after which share of the steps; ``pruned``: whether pruned weights are scored;
    ``region``: ``pruned`` where they alone are; ``codec``. For masks and indices, besides: ``swap`` or
    ``density``, and ``protect``. For the strongest scores alone, besides: ``top``, ``swap``, ``protect``, and
    ``block`` and ``blocks`` where they take turns. Of a trial, ``candidates``, ``density``, ``seed`` (the
    run's) and ``protect``.
    ``transport/README.md`` has the table.
    """
    if not policy.changes_at(round_number + 1) and not is_behind:
        return {}
    question: dict[str, object] = {"batches": policy.score_batches}
    if policy.candidates and is_behind:
        return question | {
            "kind": "loss",
            "form": "trial",
            "candidates": policy.candidates,
            "density": policy.density,
            "seed": seed,
            "protect": list(policy.protect),
        }
    if policy.policy in ("vote", "thompson"):
        swap = policy.regrow_at(round_number + 1)
        if swap == 0:
            return {}
        kind = SCORES[policy.grow].wire or policy.grow
        return question | {
            "kind": kind,
            "form": "mask" if policy.policy == "vote" else "indices",
            "at": policy.vote_at if policy.policy == "vote" else 1.0,
            "swap": swap,
            "protect": list(policy.protect),
        }
    if policy.policy == "local":
        # A proposal is made when all steps are done.
        return question | {
            "kind": "magnitude",
            "form": "mask",
            "at": 1.0,
            "density": policy.density_at(round_number + 1),
            "protect": list(policy.protect),
        }
    if not policy.wires():
        return {}
    question |= {"kind": min(policy.wires()), "form": "values", "codec": dict(policy.score_codec)}
    if policy.latent:
        return question | {"at": 1.0, "region": "pruned"}
    if policy.top_scores:
        swap = policy.regrow_at(round_number + 1)
        question |= {
            "at": 1.0,
            "region": "pruned",
            "top": True,
            "swap": swap,
            "protect": list(policy.protect),
        }
        if policy.blocks:
            question |= {"block": block_at(policy, round_number + 1), "blocks": policy.blocks}
        return question if swap > 0 else {}
    return question | {"at": 0.0, "pruned": any(score.scores_pruned for score in policy.asked())}


def told_by(
    policy: PruningPolicy,
    question: Mapping[str, object],
    *,
    round_number: int = 1,
    first_rate: float = 0.0,
) -> dict[str, object]:
    """Return what a round's plan tells the devices: the question, the power and the tiers, where set.

    ``shaping`` is how training is bent towards a sparse model, see `hedgerow_edge_client.shaping`; an
    extrusion needs the run's first learning rate.
    """
    told: dict[str, object] = {"question": dict(question)} if question else {}
    if policy.policy == "none":
        return told
    if policy.power > 1:
        told["power"] = policy.power
    if policy.policy == "tiered":
        told |= {"tiers": dict(policy.tiers), "protect": list(policy.protect)}
    if policy.biased:
        told["biased"] = True
    shaping: dict[str, object] = {LATENT: True} if policy.latent else {}
    strength = strength_at(policy, round_number)
    if strength > 0:
        shaping |= {"regularizer": policy.regularizer, "strength": strength}
    if policy.activations < 1:
        shaping["activations"] = policy.activations
    if policy.extrusion > 0 and "swap" in question:
        shaping |= {"extrusion": policy.extrusion, "marked": question["swap"], "first_rate": first_rate}
    return told | ({"shaping": shaping} if shaping else {})


def strength_at(policy: PruningPolicy, round_number: int) -> float:
    """Return what the regulariser is multiplied by in a round, from 1.

    It rises from 0 in so many equal steps as the plan says, as in FedDIP (Long et al. 2023): in the
    i-th part of the rounds up to `end_round`, i from 0, it is ``i / steps`` of the whole. With one step it is
    the whole all along.
    """
    if policy.regularizer == "none" or policy.strength_steps == 1:
        return policy.strength if policy.regularizer != "none" else 0.0
    step = (round_number - 1) * policy.strength_steps // policy.end_round
    return policy.strength * min(step, policy.strength_steps - 1) / policy.strength_steps
