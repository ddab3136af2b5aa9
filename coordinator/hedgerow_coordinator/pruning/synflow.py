"""SynFlow's iterative pruning (Tanaka et al. 2020, algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hedgerow_codecs import Mask
from hedgerow_coordinator.pruning.evidence import Evidence
from hedgerow_coordinator.pruning.score import SCORES, Scores

# Of the paper's experiments, with densities that fall exponentially.
FLOW_STEPS = 100


def flow_scored(
    known: Evidence, *, densities: Sequence[float], thin: Callable[[Scores, Evidence, float], Mask]
) -> Mask:
    """Prune a little, score what is left, and so on, so that no layer collapses.

    Parameters
    ----------
    known : Evidence
        With `Evidence.flow`.
    densities : sequence of float
        Falling; the last is the one that is wanted.
    thin : callable
        Makes a mask of a density from scores.
    """
    for density in densities:
        mask = thin(SCORES["synflow"].compute(known), known, density)
        known = replace(known, mask=mask)
    return known.mask
