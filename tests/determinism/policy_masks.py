"""Masks that the coordinator's pruning policies make of equal inputs, as bytes to compare.

The coordinator's package as a whole needs more than numpy; its pruning does not, and is imported alone.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hedgerow_codecs import Layout, Mask, candidate_counts, counted_mask

if TYPE_CHECKING:
    from hedgerow_coordinator.pruning import Evidence

PACKAGE = Path(__file__).parents[2] / "coordinator" / "hedgerow_coordinator"
SCORES = ("magnitude", "lamp", "movement", "update", "row-norm", "random")
BUDGETS = ("erk", "er", "uniform", "global", "lamp")
DENSITIES = (0.5, 0.11)


def import_pruning() -> None:
    """Let ``hedgerow_coordinator.pruning`` be imported without what the package itself imports."""
    spec = importlib.machinery.ModuleSpec("hedgerow_coordinator", None, is_package=True)
    spec.submodule_search_locations = [str(PACKAGE)]
    sys.modules.setdefault("hedgerow_coordinator", importlib.util.module_from_spec(spec))


def policy_masks(
    layout: Layout, draw: Callable[[str], np.ndarray], *, before: Mask
) -> Iterator[tuple[str, bytes]]:
    """Yield names and packed masks.

    Parameters
    ----------
    layout : Layout
    draw : callable
        From a key to float32 values, shape (num_parameters,), the same on every machine.
    before : Mask
        From which pruning goes on.
    """
    import_pruning()
    from hedgerow_coordinator.pruning import Evidence, PruningPolicy, initial_mask, prune, rescaled

    drawn = {name: before.scatter(before.gather(draw(name))) for name in ("weights", "movement")}
    evidence = Evidence(
        **drawn,
        mask=before,
        update=draw("update"),  # pruned weights too: growth is by it
        device=np.square(draw("device")),
        round=3,
        seed=11,
    )
    kinds = [{"score": score, "budget": budget} for score, budget in itertools.product(SCORES, BUDGETS)]
    kinds += [{"budget": budget, "regrow": 0.3, "schedule": "constant"} for budget in BUDGETS]
    kinds += [{"schedule": "adaptive", "score": "squared-gradient"}]
    for settings, density in itertools.product(kinds, DENSITIES):
        # A share that grows back falls to 0 in the last round.
        end_round = 9 if "regrow" in settings else 3
        policy = PruningPolicy(**settings, density=density, start_round=3, end_round=end_round)
        mask = prune(evidence.weights, mask=before, policy=policy, round=3, evidence=evidence)
        assert not np.array_equal(mask.live, before.live), settings
        name = "/".join(map(str, settings.values()))
        yield f"mask/policy/{name}/{density}", np.packbits(mask.live).tobytes()
    yield from _drawn_masks(evidence, draw)
    for number, counts in enumerate(candidate_counts(layout, number=4, density=0.2, seed=5)):
        tried = counted_mask(drawn["weights"], mask=before, counts=counts)
        yield f"mask/policy/candidate/{number}", np.packbits(tried.live).tobytes()
    for budget in BUDGETS:
        policy = PruningPolicy(budget=budget, schedule="constant", density=0.2)
        first = initial_mask(drawn["weights"], layout=layout, policy=policy, seed=5)
        yield f"mask/policy/first/{budget}", np.packbits(first.live).tobytes()
        yield f"values/policy/first/{budget}", rescaled(drawn["weights"], mask=first).astype("<f4").tobytes()


def _drawn_masks(evidence: Evidence, draw: Callable[[str], np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Yield masks by Thompson sampling, and those in which pruned weights compete."""
    from hedgerow_coordinator.pruning import PruningPolicy, prune
    from hedgerow_coordinator.pruning.chance import beta_draws

    sides = {name: 1 + np.abs(draw(name)) for name in ("alpha", "beta")}
    settings = {"density": 0.5, "schedule": "constant", "start_round": 3, "end_round": 9}
    kinds = {
        "thompson": {"policy": "thompson", "regrow": 0.3, "grow": "gradient"},
        "latent": {"latent": True, "budget": "global"},
    }
    for name, kind in kinds.items():
        known = replace(evidence, memory=sides)
        policy = PruningPolicy(**settings, **kind)
        mask = prune(known.weights, mask=known.mask, policy=policy, round=3, evidence=known)
        assert not np.array_equal(mask.live, known.mask.live), name
        yield f"mask/policy/{name}", np.packbits(mask.live).tobytes()
    draws = beta_draws(*(side.astype(np.float64) for side in sides.values()), seed=5)
    yield "values/policy/beta", draws.astype("<f8").tobytes()
