"""Recipes: each is a plan that can be read, says what its paper says, and keeps the template's comments."""

import pytest

from hedgerow_coordinator.plan import parse_plan
from hedgerow_coordinator.plan_template import plan_template
from hedgerow_coordinator.pruning import RECIPES, with_settings


def plan_of(name: str, *, rounds: int = 20) -> "object":
    text = with_settings(plan_template(name="a", rounds=rounds), RECIPES[name].settings(rounds))
    return parse_plan(text.encode())


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("rounds", [2, 3, 5, 20, 400])
def test_every_recipe_is_a_plan(name: str, rounds: int) -> None:
    plan = plan_of(name, rounds=rounds)
    assert parse_plan(plan.to_toml().encode()) == plan  # type: ignore[attr-defined]


def test_our_own_recipe_prunes_and_codes_both_ways() -> None:
    plan = plan_of("hedgerow")
    assert plan.pruning.policy == "server"  # type: ignore[attr-defined]
    assert plan.codec.feedback == "residual"  # type: ignore[attr-defined]
    assert plan.codec.uplink["codec_id"] == plan.codec.downlink["codec_id"] == "deadzone"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "pruning"),
    [
        ("fedavg", {"policy": "none"}),
        ("random", {"policy": "server", "schedule": "constant", "budget": "erk", "regrow": 0.0}),
        ("stc", {"policy": "none"}),
        (
            "feddst",
            {
                "policy": "vote",
                "budget": "erk",
                "schedule": "constant",
                "regrow": 0.01,
                "grow": "gradient",
                "end_round": 10,
                "vote_at": 1.0,
                "vote_threshold": 0.0,
            },
        ),
        ("prunefl", {"schedule": "adaptive", "score": "squared-gradient", "solo_rounds": 5}),
        ("synflow", {"score": "synflow", "budget": "global", "schedule": "constant"}),
        ("snip", {"score": "snip", "budget": "global", "start_round": 2, "rewind": True}),
        ("grasp", {"score": "grasp", "budget": "global", "start_round": 2, "rewind": True}),
        ("lottery", {"score": "magnitude", "schedule": "geometric", "rewind": True}),
        (
            "fiarse",
            {
                "policy": "tiered",
                "density": 1.0,
                "biased": True,
                "tiers": {"ram_mib < 512": 1 / 64, "ram_mib < 1024": 1 / 16, "ram_mib < 4096": 1 / 4},
            },
        ),
        (
            "tiers",
            {
                "policy": "tiered",
                "tier_by": "distance",
                "density": 1.0,
                "biased": False,
                "tiers": {"ram_mib < 1024": 1 / 4, "ram_mib < 2048": 1 / 2},
            },
        ),
        ("heterofl", {"policy": "tiered", "tier_by": "width", "mask_labels": True, "density": 1.0}),
        ("lotteryfl", {"policy": "personal", "rewind": True, "own_share": 0.2, "own_least": 0.5}),
        ("hermes", {"policy": "personal", "rewind": False, "density": 1.0, "channels": 0.5}),
        ("fedpm", {"policy": "sampled", "density": 1.0, "every": 1}),
        (
            "feddip",
            {
                "latent": True,
                "budget": "global",
                "initial_budget": "erk",
                "initial_density": 0.5,
                "schedule": "cubic",
                "every": 2,
                "end_round": 20,
                "regularizer": "norm",
                "strength": 0.001,
                "strength_steps": 20,
            },
        ),
        (
            "sparsyfed",
            {
                "policy": "local",
                "budget": "global",
                "schedule": "one-shot",
                "start_round": 2,
                "end_round": 20,
                "power": 1.25,
                "activations": 0.0,
            },
        ),
        (
            "fedrts",
            {
                "policy": "thompson",
                "regrow": 0.4,
                "grow": "gradient",
                "fusion": 0.5,
                "influence": 10.0,
                "end_round": 12,
            },
        ),
        (
            "fedtiny",
            {
                "policy": "server",
                "budget": "uniform",
                "candidates": 10,
                "blocks": 5,
                "regrow": 0.3,
                "top_scores": True,
                "end_round": 6,
            },
        ),
        (
            "fedmef",
            {
                "budget": "erk",
                "candidates": 0,
                "blocks": 0,
                "regrow": 0.2,
                "top_scores": True,
                "extrusion": 0.01,
                "activations": 0.5,
            },
        ),
        ("seed-soft", {"policy": "soft", "threshold": 0.0, "start_round": 10}),
        ("seed-norm", {"score": "row-norm", "budget": "threshold", "schedule": "one-shot"}),
    ],
)
def test_recipes_set_what_their_papers_say(name: str, pruning: dict[str, object]) -> None:
    policy = plan_of(name).pruning  # type: ignore[attr-defined]
    assert {key: getattr(policy, key) for key in pruning} == pruning


def test_stc_is_ternary_both_ways_with_residuals() -> None:
    codec = plan_of("stc").codec  # type: ignore[attr-defined]
    assert codec.feedback == "residual"
    assert codec.uplink == codec.downlink == {"codec_id": "ternary", "fraction": 0.01}


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"hedgerow", "stc", "fedpm"}))
def test_the_others_send_floats_as_their_papers_do(name: str) -> None:
    codec = plan_of(name).codec  # type: ignore[attr-defined]
    assert (codec.feedback, codec.uplink, codec.downlink) == (
        "none",
        {"codec_id": "float32"},
        {"codec_id": "float32"},
    )


def test_feddst_changes_every_few_rounds_until_the_half() -> None:
    policy = plan_of("feddst").pruning  # type: ignore[attr-defined]
    changes = [number for number in range(1, 21) if policy.changes_at(number)]
    assert changes == [3, 5, 7, 9]
    assert [policy.regrow_at(number) for number in changes] == sorted(
        (policy.regrow_at(number) for number in changes), reverse=True
    )
    assert policy.regrow_at(3) == 0.01


def test_settings_keep_comments_and_other_keys() -> None:
    text = '[a]\nx = 1  # why\ny = "b"\n\n[c]\nz = 2\n'
    changed = with_settings(text, {"a": {"x": 7, "new": [1, "q"]}, "d": {"e": {"f": True}}})
    assert changed == '[a]\nx = 7  # why\ny = "b"\nnew = [1, "q"]\n\n[c]\nz = 2\n\n[d]\ne = { f = true }\n'
    assert with_settings(text, {}) == text
