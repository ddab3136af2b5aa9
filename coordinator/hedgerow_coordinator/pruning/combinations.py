"""Which settings of a pruning policy make no sense together, and what does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hedgerow_coordinator.pruning.budget import OUTCOME_BUDGETS
from hedgerow_coordinator.pruning.score import SCORES

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning.policy import PruningPolicy

# Every round's plan carries them.
MAX_TIERS = 64
# So does the round that tries them, with a number for each tensor.
MAX_CANDIDATES = 64


def growers() -> tuple[str, ...]:
    """Return the names of the scores by which pruned weights can come back."""
    return tuple(name for name, score in SCORES.items() if score.scores_pruned)


def _personal_rules(policy: PruningPolicy) -> tuple[tuple[bool, str, str], ...]:
    own = policy.policy == "personal"
    return (
        (
            own and policy.channels < 1 and policy.density < 1,
            "density",
            'must be 1 with policy "personal" and channels below 1: devices take channels or weights away',
        ),
        (
            own and (policy.budget != "erk" or policy.score != "magnitude" or policy.channel_score != "l2"),
            "budget",
            'score and channel_score must be left out with policy "personal": devices take the smallest of '
            "each tensor, or of each group of channels",
        ),
        (
            own
            and (policy.regrow > 0 or policy.solo_rounds > 0 or policy.tolerance > 0 or bool(policy.times)),
            "regrow",
            'solo_rounds, tolerance and times must be left out with policy "personal", '
            "which knows none of them",
        ),
        (
            own and policy.held_out == 0 and (policy.density < 1 or policy.channels < 1),
            "held_out",
            'must be above 0 with policy "personal": devices thin their models by what they measure on it',
        ),
    )


def _sampled_rules(policy: PruningPolicy) -> tuple[tuple[bool, str, str], ...]:
    sampled = policy.policy == "sampled"
    return (
        (
            sampled and (policy.density < 1 or policy.channels < 1 or bool(policy.protect)),
            "density",
            'must be 1, channels 1 and protect empty with policy "sampled": how many weights there are is an '
            "outcome",
        ),
        (
            sampled
            and (policy.regrow > 0 or policy.rewind or policy.power > 1 or policy.regularizer != "none"),
            "regrow",
            'rewind, power and regularizer must be left out with policy "sampled": '
            "weights neither grow nor move",
        ),
        (
            sampled and (policy.solo_rounds > 0 or policy.tolerance > 0),
            "tolerance",
            'and solo_rounds must be 0 with policy "sampled", which takes nothing away',
        ),
    )


def combination_rules(policy: PruningPolicy) -> tuple[tuple[bool, str, str], ...]:
    """Return every rule: whether it is broken, the key to blame, and a sentence that says what does go."""
    return (
        (
            policy.regrow > 0 and not SCORES[policy.grow].scores_pruned,
            "grow",
            f'must be a score of pruned weights ({", ".join(growers())}), not "{policy.grow}", '
            "which says nothing about weights that are not there",
        ),
        (
            policy.channels < 1 and policy.regrow > 0,
            "regrow",
            "must be 0 when channels is below 1: weights would grow in channels that are gone",
        ),
        (
            policy.channels < 1 and (policy.policy == "soft" or policy.density_is_outcome),
            "channels",
            "must be 1 with the policy soft, the budget threshold and the schedule adaptive",
        ),
        (
            policy.power > 1 and policy.regrow > 0,
            "power",
            "must be 1 when regrow is not 0: grown weights start at zero, where powerpropagation holds them",
        ),
        (
            policy.regrow > 0 and policy.density == 1,
            "regrow",
            "must be 0 when density is 1: there is nothing to grow into",
        ),
        (
            policy.regrow > 0 and policy.rewind,
            "rewind",
            "must be false when regrow is not 0: grown weights start at zero, not at first values",
        ),
        (
            policy.regrow > 0 and policy.policy not in ("server", "tiered", "vote", "thompson"),
            "regrow",
            f'must be 0 with policy "{policy.policy}", which makes no masks',
        ),
        (
            policy.policy == "vote" and policy.regrow == 0,
            "regrow",
            'must be above 0 with policy "vote": the devices vote on what to swap',
        ),
        (
            policy.policy == "vote" and policy.grow not in ("gradient", "random"),
            "grow",
            f'must be "gradient" or "random" with policy "vote", not "{policy.grow}": '
            "devices grow by what they can see",
        ),
        (
            policy.policy == "vote" and policy.score != "magnitude",
            "score",
            f'must be "magnitude" with policy "vote", not "{policy.score}": '
            "devices drop, and the union is pruned, by |w|",
        ),
        (
            policy.policy == "vote" and policy.budget in ("global", "lamp", *OUTCOME_BUDGETS),
            "budget",
            f'must be "erk", "er" or "uniform" with policy "vote", not "{policy.budget}": '
            "proposals keep each tensor's number of weights",
        ),
        (
            (
                policy.policy in ("vote", "tiered", "local", "thompson")
                or policy.top_scores
                or policy.candidates > 0
            )
            and len(policy.protect) > MAX_TIERS,
            "protect",
            f'must name at most {MAX_TIERS} tensors with policy "{policy.policy}": every round tells them',
        ),
        (
            policy.tolerance > 0 and policy.policy == "soft",
            "tolerance",
            'must be 0 with policy "soft", which takes nothing away',
        ),
        (
            policy.tolerance > 0 and policy.reaction == "revert" and policy.rewind,
            "reaction",
            'must be "stop" when rewind is true: weights that have gone back cannot be put together with '
            "those from before",
        ),
        (
            policy.policy == "tiered" and not policy.tiers,
            "tiers",
            'must name the weaker devices with policy "tiered", as in [pruning.tiers] "zero-*" = 0.25',
        ),
        (
            bool(policy.tiers) and policy.policy != "tiered",
            "tiers",
            f'must be empty with policy "{policy.policy}"; policy "tiered" uses it',
        ),
        (
            policy.tier_by != "magnitude" and policy.policy != "tiered",
            "tier_by",
            f'must be "magnitude" with policy "{policy.policy}": it is about tiers',
        ),
        (
            policy.mask_labels and policy.policy != "tiered",
            "mask_labels",
            f'must be false with policy "{policy.policy}": it is for devices of different strength',
        ),
        (
            policy.tier_by != "magnitude" and policy.biased,
            "biased",
            f'must be false with tier_by "{policy.tier_by}": it is about thresholds of tiers by magnitude',
        ),
        (
            policy.tier_by == "width" and policy.prunes,
            "density",
            'must be 1, and channels as well, with tier_by "width": tiers are cut from the whole model',
        ),
        *_personal_rules(policy),
        *_sampled_rules(policy),
        (
            policy.biased and policy.policy != "tiered",
            "biased",
            f'must be false with policy "{policy.policy}": it is about the thresholds of tiers',
        ),
        (
            policy.policy == "local" and (policy.score, policy.budget) != ("magnitude", "global"),
            "budget" if policy.score == "magnitude" else "score",
            'must be "magnitude" (score) and "global" (budget) with policy "local": each device keeps its '
            "largest weights",
        ),
        (
            policy.policy == "local" and (policy.regrow > 0 or policy.rewind or policy.channels < 1),
            "policy",
            'must not be "local" when regrow is not 0, rewind is true or channels is below 1: '
            "the devices prune, weight by weight, and nothing comes back",
        ),
        (
            policy.policy in ("local", "thompson") and policy.tolerance > 0,
            "tolerance",
            f'must be 0 with policy "{policy.policy}", whose masks follow from every round',
        ),
        (
            policy.policy == "local" and (policy.schedule == "adaptive" or policy.density == 1),
            "schedule" if policy.density < 1 else "density",
            'must be that of a fall below 1 with policy "local", which prunes to a density',
        ),
        (
            policy.policy == "thompson" and policy.regrow == 0,
            "regrow",
            'must be above 0 with policy "thompson": it is the share of the weights that is open to a change',
        ),
        (
            policy.policy == "thompson" and policy.grow not in ("gradient", "random"),
            "grow",
            f'must be "gradient" or "random" with policy "thompson", not "{policy.grow}": '
            "devices name what they can see",
        ),
        (
            policy.policy == "thompson" and policy.score != "magnitude",
            "score",
            f'must be "magnitude" with policy "thompson", not "{policy.score}": '
            "it learns from which weights are the largest",
        ),
        (
            policy.policy == "thompson"
            and (policy.schedule != "constant" or policy.budget in ("global", "lamp", *OUTCOME_BUDGETS)),
            "schedule" if policy.schedule != "constant" else "budget",
            'must be "constant" (schedule) and "erk", "er" or "uniform" (budget) with policy "thompson": '
            "each tensor keeps its number of weights",
        ),
        (
            policy.top_scores and (policy.policy != "server" or policy.regrow == 0),
            "top_scores",
            'must be false unless policy is "server" and regrow is above 0: '
            "as many scores come as weights change",
        ),
        (
            policy.top_scores and policy.grow != "gradient",
            "grow",
            f'must be "gradient" with top_scores, not "{policy.grow}": devices send the strongest of theirs',
        ),
        (
            policy.blocks > 0 and (policy.policy != "server" or policy.regrow == 0),
            "blocks",
            'must be 0 unless policy is "server" and regrow is above 0: blocks take turns to swap weights',
        ),
        (
            policy.blocks > 0 and (policy.schedule != "constant" or policy.budget in ("global", "lamp")),
            "schedule" if policy.schedule != "constant" else "budget",
            'must be "constant" (schedule) and "erk", "er" or "uniform" (budget) with blocks: '
            "each tensor keeps its number of weights",
        ),
        (
            policy.candidates > 0 and (policy.policy != "server" or policy.schedule != "constant"),
            "policy" if policy.policy != "server" else "schedule",
            'must be "server" (policy) and "constant" (schedule) with candidates: '
            "they have the final density",
        ),
        (
            policy.candidates > 0
            and (policy.latent or policy.rewind or policy.channels < 1 or policy.power > 1),
            "candidates",
            "must be 0 when latent or rewind is true, channels is below 1 or power is above 1",
        ),
        (
            policy.candidates > 0 and (policy.score != "magnitude" or policy.initial_budget != ""),
            "candidates",
            'must be 0 unless score is "magnitude" and initial_budget is empty: they are made of the largest '
            "first weights",
        ),
        (
            policy.candidates > 0 and policy.budget in ("global", "lamp", *OUTCOME_BUDGETS),
            "budget",
            'must be "erk", "er" or "uniform" with candidates: each tensor keeps what its candidate gave it',
        ),
        (
            policy.candidates > 0 and policy.solo_rounds > 0,
            "solo_rounds",
            "must be 0 with candidates: all devices try them",
        ),
        (
            policy.candidates > 0 and policy.regrow > 0 and policy.start_round < 3,
            "start_round",
            f"must be at least 3 with candidates, not {policy.start_round}: "
            "round 1 tries them, and round 2 trains",
        ),
        (
            policy.extrusion > 0 and not policy.top_scores,
            "extrusion",
            "must be 0 unless top_scores is true: it prepares the weights that a swap will drop",
        ),
        (
            policy.latent and policy.policy != "server",
            "latent",
            f'must be false with policy "{policy.policy}": the coordinator weighs what pruned weights become',
        ),
        (
            policy.latent and (policy.regrow > 0 or policy.rewind or policy.channels < 1),
            "latent",
            "must be false when regrow is not 0, rewind is true or channels is below 1: "
            "pruned weights come back by what they have become, with that value",
        ),
        (
            policy.latent and (policy.score != "magnitude" or policy.density_is_outcome),
            "latent",
            'must be false unless score is "magnitude" and the density is that of a schedule: '
            "all weights compete by what they are",
        ),
        (
            policy.latent and policy.power > 1,
            "power",
            "must be 1 when latent is true: pruned weights start at zero, where powerpropagation holds them",
        ),
        (
            policy.latent and policy.density == 1,
            "latent",
            "must be false when density is 1: there is nothing behind the mask",
        ),
        (
            policy.latent and policy.reaction == "revert" and policy.tolerance > 0,
            "reaction",
            'must be "stop" when latent is true: a change replaces values that a revert would need',
        ),
        (
            policy.strength > 0 and policy.regularizer == "none",
            "regularizer",
            'must be "l1", "l2" or "norm" when strength is not 0',
        ),
        (
            policy.regularizer != "none" and policy.strength == 0,
            "strength",
            f'must be above 0 with regularizer "{policy.regularizer}"',
        ),
        (
            policy.biased and policy.power > 1,
            "power",
            "must be 1 when biased is true: each has a gradient of its own",
        ),
        (
            policy.budget == "threshold" and policy.threshold == 0,
            "threshold",
            'must be above 0 with budget "threshold"',
        ),
        (
            policy.budget == "threshold" and policy.schedule != "one-shot",
            "schedule",
            'must be "one-shot" with budget "threshold", which knows no density to go to',
        ),
        (
            (policy.budget == "threshold" or policy.schedule == "adaptive") and policy.regrow > 0,
            "regrow",
            "must be 0 where the density is an outcome",
        ),
        (
            policy.schedule == "adaptive" and policy.score != "squared-gradient",
            "score",
            f'must be "squared-gradient" with schedule "adaptive", not "{policy.score}": '
            "it weighs g^2 against time",
        ),
        (
            policy.score == "squared-gradient" and policy.schedule != "adaptive",
            "schedule",
            'must be "adaptive" with score "squared-gradient"; to grow by the gradient, use "gradient"',
        ),
        (
            len(policy.wires()) > 1,
            "grow" if policy.regrow > 0 else "channel_score",
            f'must not need another score of the devices than "{policy.score}": a round asks for one',
        ),
    )
