"""Which settings of a plan's tables make no sense together, and what does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow_coordinator.plan import Plan

Rule = tuple[bool, str, str, str]


def rules_between_tables(plan: Plan) -> tuple[Rule, ...]:
    """Return every rule: whether it is broken, the table and key to blame, and a sentence of what does go."""
    pruning, freeze = plan.pruning, bool(plan.model.freeze)
    own = pruning.policy in ("personal", "sampled")
    return (
        *_sampled_rules(plan),
        (
            pruning.tier_by == "width" and freeze,
            "model",
            "freeze",
            'must be empty with tier_by "width": frozen tensors are not sent, and narrower models have '
            "other tensors",
        ),
        (
            pruning.tier_by == "distance" and plan.model.init != "seeded",
            "model",
            "init",
            f'must be "seeded" with tier_by "distance", not "{plan.model.init}": '
            "devices make the first weights again from the seed, to see what has moved",
        ),
        (
            pruning.policy == "personal" and pruning.rewind and plan.model.init != "seeded",
            "model",
            "init",
            f'must be "seeded" where personal models rewind, not "{plan.model.init}": '
            "devices make the first weights again from the seed",
        ),
        (
            pruning.policy in ("vote", "tiered", "local", "personal") and plan.codec.feedback == "ef21",
            "codec",
            "feedback",
            f'must not be "ef21" with policy "{pruning.policy}": its estimates are of all live weights, '
            'and each device sends a part of them; use "residual"',
        ),
        (
            freeze and own,
            "model",
            "freeze",
            f'must be empty with policy "{pruning.policy}", whose devices choose weights everywhere; '
            "all other policies leave frozen tensors alone",
        ),
        (
            plan.aggregation.ema > 0 and own,
            "aggregation",
            "ema",
            f'must be 0 with policy "{pruning.policy}", whose outcome is not one vector of weights',
        ),
        (
            pruning.tolerance > 0 and plan.evaluate.data is None,
            "pruning",
            "tolerance",
            "must be 0 where nothing is measured: name test data under [evaluate] data",
        ),
    )


def _sampled_rules(plan: Plan) -> tuple[Rule, ...]:
    """Return what masks over frozen weights need of the other tables."""
    is_sampled, settings, training = plan.pruning.policy == "sampled", plan.aggregation, plan.training
    as_bits = [name for name in ("uplink", "downlink") if getattr(plan.codec, name)["codec_id"] == "bits"]
    plain = settings.optimizer == "sgd" and settings.server_momentum == 0
    return (
        (
            as_bits != (["uplink"] if is_sampled else []),
            "codec.uplink",
            "codec_id",
            'must be "bits" on the way up with policy "sampled", and nowhere else',
        ),
        (
            is_sampled and plan.codec.feedback != "none",
            "codec",
            "feedback",
            'must be "none" with policy "sampled": masks leave nothing out',
        ),
        (
            is_sampled and (plan.model.init != "seeded" or bool(plan.model.freeze)),
            "model",
            "init",
            'must be "seeded", and freeze empty, with policy "sampled": weights stay as they are drawn',
        ),
        (
            is_sampled and not (plain and settings.server_learning_rate == 1),
            "aggregation",
            "optimizer",
            'must be "sgd" with rate 1 and no momentum with policy "sampled": a mean of masks is no step',
        ),
        (
            is_sampled and training.momentum + training.proximal_mu + training.weight_decay > 0,
            "training",
            "momentum",
            'and proximal_mu and weight_decay must be 0 with policy "sampled": weights do not move',
        ),
    )
