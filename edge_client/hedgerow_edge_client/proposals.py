"""Masks that a device proposes, from its own weights and gradients."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, block_of
from hedgerow_edge_client.requests import TrainRequest

Vector = NDArray[np.float32]


def propose(
    weights: Vector,
    growth: Vector,
    *,
    live: NDArray[np.bool_],
    layout: Layout,
    swap: float,
    protect: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Return the mask that a device proposes: weak weights swapped for pruned ones, tensor by tensor.

    Bibikar et al. 2022 (FedDST), algorithm 1: of each tensor's live weights the share `swap` with the
    smallest ``|w|`` goes, and as many that were pruned come, those with the largest `growth`. Each tensor
    keeps its number of weights.
    """
    proposed = live.copy()
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        if not spec.prunable or spec.name in protect:
            continue
        part = slice(start, start + spec.size)
        held, pruned = np.flatnonzero(live[part]), np.flatnonzero(~live[part])
        count = min(int(swap * len(held)), len(pruned))
        weakest = np.argsort(np.abs(weights[part][held]), kind="stable")[:count]
        strongest = np.argsort(-np.abs(growth[part][pruned]), kind="stable")[:count]
        proposed[part][held[weakest]] = False
        proposed[part][pruned[strongest]] = True
    return proposed


def open_tensors(request: TrainRequest, *, layout: Layout) -> tuple[str, ...]:
    """Return the tensors that the change after a round is about; none where nothing is asked."""
    question = request.question
    if question is None:
        return ()
    protect = (*question.protect, *request.frozen)
    return block_of(layout, block=question.block, blocks=question.blocks, protect=protect)


def wished(
    growth: Vector,
    *,
    live: NDArray[np.bool_],
    layout: Layout,
    share: float,
    tensors: Collection[str],
) -> NDArray[np.bool_]:
    """Return the pruned weights that a device wants back, in each of some tensors.

    Huang et al. 2025 (FedRTS), equation 5: those with the largest ``|growth|``, as many as the share of the
    live ones, if there are so many.
    """
    named = np.zeros_like(live)
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        if spec.name not in tensors:
            continue
        part = slice(start, start + spec.size)
        pruned = np.flatnonzero(~live[part])
        count = min(int(share * (spec.size - len(pruned))), len(pruned))
        order = np.argsort(-np.abs(growth[part][pruned]), kind="stable")
        named[part][pruned[order[:count]]] = True
    return named


def strongest(
    weights: Vector,
    *,
    live: NDArray[np.bool_],
    layout: Layout,
    density: float,
    protect: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Return the mask of a device's strongest weights, over the whole model.

    Guastella et al. 2025 (SparsyFed): the trained weights are pruned by ``|w|``, all tensors together. Each
    tensor keeps its strongest weight at least; those that are not pruned stay whole, and count.

    Parameters
    ----------
    weights
        After training, ``(num_parameters,)``.
    live
        What may be kept.
    layout
        Of the model.
    density
        Live weights over all parameters afterwards, rounded down; what no mask touches counts.
    protect
        Tensors that stay as they are.
    """
    ranks = np.abs(weights)
    proposed = live.copy()
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        part = slice(start, start + spec.size)
        if not spec.prunable or spec.name in protect:
            ranks[part] = np.inf
        elif live[part].any():
            held = np.where(live[part], ranks[part], np.float32(-1))
            ranks[part][int(np.argmax(held))] = np.inf
    places = np.flatnonzero(live)
    order = np.argsort(-ranks[places], kind="stable")
    keep = math.floor(density * layout.num_parameters + 1e-6)
    fixed = int(np.count_nonzero(np.isinf(ranks[places])))
    proposed[places[order[max(keep, fixed) :]]] = False
    return proposed
