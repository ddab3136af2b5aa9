"""What a version is when it is exported: bytes of the file, time and memory of one input, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.moving_average import served_weights
from hedgerow_coordinator.pruning.target import Target

# State and metadata in, measured values by the target's keys out.
Weigh = Callable[[ServerState, Mapping[str, str]], dict[str, float]]


def weigher(target: Target | None, *, template: bytes) -> Weigh | None:
    """Return what measures the exported model of a version; None where the target asks for nothing of it.

    The model goes through the steps of `hedgerow export`: filled, its empty channels taken out, checked. The
    file lacks only the entry with its accuracy on test data.

    Parameters
    ----------
    target : Target or None
    template : bytes
        The run's.
    """
    if target is None or not target.of_export:
        return None
    bounds = target.bounds
    # Whoever bounds the export has what makes it.
    from hedgerow_export import Recipe, Runner, Sample, fill_checked, make_product, sample_inputs
    from hedgerow_export.footprint import measure_footprint

    times_it = "latency_ms" in bounds and target.multiply_adds_per_s is None
    recipe = Recipe(threads=(1,) if times_it else ())

    def weigh(state: ServerState, facts: Mapping[str, str]) -> dict[str, float]:
        weights = np.where(state.mask.live, served_weights(state), np.float32(0))
        dense, _ = fill_checked(template, weights, state.mask, metadata=facts)
        inputs = sample_inputs(Runner(dense), rows=16)
        product = make_product(dense, Sample(inputs=inputs, real=False), recipe)
        found = {"file_bytes": float(product.made.file_bytes), "zip_bytes": float(product.made.zip_bytes)}
        if target.multiply_adds_per_s is not None:
            found["latency_ms"] = 1e3 * product.made.multiply_adds / target.multiply_adds_per_s
        elif times_it:
            found["latency_ms"] = product.made.latency[0].p50_ms
        if "memory_mib" in bounds:
            found["memory_mib"] = measure_footprint(product.model, np.asarray(inputs[:1]))
        return {key: value for key, value in found.items() if key in bounds}

    return weigh
