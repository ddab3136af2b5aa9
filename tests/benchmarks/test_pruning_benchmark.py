"""The pruning benchmark's plans and summary; its runs take minutes each and are a command of their own."""

import pytest
from benchmarks.pruning import DENSITIES, WITHOUT_DENSITY, Cell, plan_of, summary_of

from hedgerow_coordinator import parse_plan
from hedgerow_coordinator.pruning import RECIPES


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_has_a_plan_at_every_density(recipe: str) -> None:
    for density in [None] if recipe in WITHOUT_DENSITY else DENSITIES:
        cell = Cell(pack="mnist_writers", recipe=recipe, density=density, seed=7, rounds=20)
        plan = parse_plan(plan_of(cell).encode())
        assert plan.run.seed == 7
        if density is not None:
            assert plan.pruning.density == density


def result(recipe: str, density: float | None, *, seed: int, uplink_mb: float | None) -> dict[str, object]:
    cell = {"pack": "mnist_writers", "recipe": recipe, "density": density, "seed": seed}
    return {**cell, "uplink_mb": uplink_mb, "final_accuracy": 0.9}


def test_bytes_are_compared_over_the_seeds_of_both() -> None:
    results = [
        result("fedavg", None, seed=7, uplink_mb=30.0),
        result("fedavg", None, seed=13, uplink_mb=50.0),
        result("fedavg", None, seed=21, uplink_mb=1000.0),
        result("hedgerow", 0.1, seed=7, uplink_mb=0.5),
        result("hedgerow", 0.1, seed=13, uplink_mb=0.3),
        result("hedgerow", 0.2, seed=21, uplink_mb=0.1),
    ]
    assert summary_of(results)["uplink_ratio_to_target"] == pytest.approx(100.0)
    assert summary_of(results[:3])["uplink_ratio_to_target"] is None
    # A seed that never gets there is in no ratio.
    results[3]["uplink_mb"] = None
    assert summary_of(results)["uplink_ratio_to_target"] == pytest.approx(50.0 / 0.3)
