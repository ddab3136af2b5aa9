"""Updates that are too large to be averaged with the others: one of them would be the mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def find_outliers(
    norms: Mapping[str, float], *, ratio: float, model_norm: Callable[[], float]
) -> dict[str, str]:
    """Return whose update is to be left out, and why.

    It is one whose norm is more than `ratio` times the median of all others', and more than the model's own.
    Of two conditions either alone would take honest devices: ones with much more data than the rest, and all
    of them while a model is still near zero.

    Parameters
    ----------
    norms
        Euclidean norm of each client's update.
    ratio
        0 finds nothing.
    model_norm
        Returns the Euclidean norm of the weights that the clients began with.
    """
    found: dict[str, str] = {}
    for client, norm in norms.items() if ratio > 0 and len(norms) > 1 else ():
        usual = statistics.median(other for name, other in norms.items() if name != client)
        if norm > ratio * usual and norm > (own := model_norm()):
            found[client] = (
                f"its update is {norm:.3g} long, the others' {usual:.3g} (median), and the model {own:.3g}"
            )
    return found
