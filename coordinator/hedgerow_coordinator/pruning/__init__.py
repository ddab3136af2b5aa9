"""Pruning policies: score, budget, schedule, governance. Pure numpy, equal on every machine."""

from hedgerow_coordinator.pruning.budget import (
    BUDGETS,
    OUTCOME_BUDGETS,
    Candidates,
    er_budget,
    erk_budget,
    global_budget,
    lamp_budget,
    uniform_budget,
)
from hedgerow_coordinator.pruning.channels import (
    CHANNEL_SCORES,
    ChannelScore,
    has_too_many_channels,
    prunable_groups,
)
from hedgerow_coordinator.pruning.evidence import Evidence
from hedgerow_coordinator.pruning.flow import Flow, synflow_of
from hedgerow_coordinator.pruning.masking import initial_mask, prune, rescaled
from hedgerow_coordinator.pruning.plan_text import with_settings
from hedgerow_coordinator.pruning.policy import POLICIES, TIERS_BY, PruningPolicy
from hedgerow_coordinator.pruning.reaction import UNDO_MASK, Watch, react
from hedgerow_coordinator.pruning.recipes import RECIPES, Recipe
from hedgerow_coordinator.pruning.schedule import (
    OUTCOME_SCHEDULES,
    SCHEDULES,
    constant,
    cosine,
    cubic,
    geometric,
    one_shot,
)
from hedgerow_coordinator.pruning.score import (
    SCORES,
    Score,
    lamp_scores,
    magnitude_scores,
    random_scores,
    row_norms,
    softened,
    update_scores,
)
from hedgerow_coordinator.pruning.thompson import Outcomes, core_live, learned, open_places, sampled
from hedgerow_coordinator.pruning.told_channels import told_channels, told_parts
from hedgerow_coordinator.pruning.trial import chosen

__all__ = [
    "BUDGETS",
    "CHANNEL_SCORES",
    "OUTCOME_BUDGETS",
    "OUTCOME_SCHEDULES",
    "POLICIES",
    "RECIPES",
    "SCHEDULES",
    "SCORES",
    "TIERS_BY",
    "UNDO_MASK",
    "Candidates",
    "ChannelScore",
    "Evidence",
    "Flow",
    "Outcomes",
    "PruningPolicy",
    "Recipe",
    "Score",
    "Watch",
    "chosen",
    "constant",
    "core_live",
    "cosine",
    "cubic",
    "er_budget",
    "erk_budget",
    "geometric",
    "global_budget",
    "has_too_many_channels",
    "initial_mask",
    "lamp_budget",
    "lamp_scores",
    "learned",
    "magnitude_scores",
    "one_shot",
    "open_places",
    "prunable_groups",
    "prune",
    "random_scores",
    "react",
    "rescaled",
    "row_norms",
    "sampled",
    "softened",
    "synflow_of",
    "told_channels",
    "told_parts",
    "uniform_budget",
    "update_scores",
    "with_settings",
]
