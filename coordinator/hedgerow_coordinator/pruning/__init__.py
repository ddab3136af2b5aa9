"""Pruning policies: score, budget, schedule. Pure numpy on flat vectors, equal on every machine."""

from hedgerow_coordinator.pruning.budget import (
    BUDGETS,
    Candidates,
    erk_budget,
    global_budget,
    uniform_budget,
)
from hedgerow_coordinator.pruning.policy import PruningPolicy, initial_mask, prune, rescaled
from hedgerow_coordinator.pruning.schedule import SCHEDULES, constant, cubic, one_shot
from hedgerow_coordinator.pruning.score import SCORES, magnitude_scores, random_scores

__all__ = [
    "BUDGETS",
    "SCHEDULES",
    "SCORES",
    "Candidates",
    "PruningPolicy",
    "constant",
    "cubic",
    "erk_budget",
    "global_budget",
    "initial_mask",
    "magnitude_scores",
    "one_shot",
    "prune",
    "random_scores",
    "rescaled",
    "uniform_budget",
]
