"""What `hedgerow policies` lists, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hedgerow_coordinator.pruning import (
    BUDGETS,
    CHANNEL_SCORES,
    OUTCOME_BUDGETS,
    OUTCOME_SCHEDULES,
    POLICIES,
    RECIPES,
    SCHEDULES,
    SCORES,
    TIERS_BY,
)

Facts = dict[str, str]


def policy_lists() -> dict[str, dict[str, Facts]]:
    """Return all names by kind, each with a line, and its source and cost in traffic where it has one."""
    scores = {
        name: {"meaning": score.meaning, "source": score.source, "traffic": score.traffic}
        for name, score in SCORES.items()
    }
    recipes = {
        name: {"meaning": recipe.meaning, "source": recipe.source, "traffic": recipe.traffic}
        for name, recipe in RECIPES.items()
    }
    return {
        "policy": {name: {"meaning": meaning} for name, meaning in POLICIES.items()},
        "tier_by": {name: {"meaning": meaning} for name, meaning in TIERS_BY.items()},
        "score, grow": scores,
        "channel_score": {
            name: {"meaning": score.meaning, "source": score.source, "traffic": score.traffic}
            for name, score in CHANNEL_SCORES.items()
        },
        "budget": _documented(BUDGETS, OUTCOME_BUDGETS),
        "schedule": _documented(SCHEDULES, OUTCOME_SCHEDULES),
        "recipe": recipes,
    }


def _documented(
    functions: Mapping[str, Callable[..., object]], outcomes: Mapping[str, str]
) -> dict[str, Facts]:
    lines = {name: (function.__doc__ or "").splitlines()[0] for name, function in functions.items()}
    return {name: {"meaning": line.rstrip(".")} for name, line in lines.items()} | {
        name: {"meaning": f"{meaning}; the density is an outcome"} for name, meaning in outcomes.items()
    }
