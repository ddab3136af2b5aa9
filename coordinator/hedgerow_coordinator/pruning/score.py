"""Scores: how much each weight is worth keeping. Larger stays.

A score is a value: what it is, where it comes from, and what it costs on the wire. Those of origin
``gateway`` are computed here, from what the coordinator has anyway, in arithmetic that is the same on every
machine. Those of origin ``device`` are computed by the devices on their data and travel beside the updates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning.chance import mixed
from hedgerow_coordinator.pruning.evidence import Evidence

Scores = NDArray[np.float32]
_GRID = 1 << 15
_FIT_TURNS = 6


def magnitude_scores(flat: NDArray[np.float32], layout: Layout) -> Scores:
    """Score every weight by its magnitude, ``|w|``.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
    layout : Layout

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Not rounded anywhere, so equal weights give equal scores on every machine.

    Raises
    ------
    PruningError
        A weight is not finite; the message names its tensor.
    """
    layout.check_flat(flat)
    scores = np.abs(flat.astype(np.float32, copy=False))
    if not np.isfinite(scores.max(initial=0.0)):
        first = int(np.argmin(np.isfinite(scores)))
        tensor = layout.tensors[int(np.searchsorted(layout.offsets, first, side="right")) - 1].name
        raise PruningError(f"tensor {tensor!r} holds a weight that is not finite", tensor=tensor)
    return scores


def lamp_scores(flat: NDArray[np.float32], layout: Layout) -> Scores:
    """Score a weight by its square over the squares of all that are at least as large in its tensor.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", equation 4. The scores of
    different tensors compare, so they go with the budget ``global``. Of equal weights, the later one counts
    as the larger, as in the paper's code.
    """
    magnitude = magnitude_scores(flat, layout).astype(np.float64)
    scores = np.zeros(layout.num_parameters, np.float64)
    for start, end in pairwise(layout.offsets):
        squares = magnitude[start:end] ** 2
        order = np.argsort(squares, kind="stable")
        # A running sum adds one by one, in this order on every machine.
        rest = np.cumsum(squares[order][::-1])[::-1]
        scores[start:end][order] = np.divide(squares[order], rest, out=np.zeros(end - start), where=rest > 0)
    return scores.astype(np.float32)


def random_scores(layout: Layout, *, seed: int) -> Scores:
    """Score every weight by 24 random bits, the same for a seed on every machine.

    Parameters
    ----------
    layout : Layout
    seed : int
        0 to 2**64 - 1 inclusive.

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        Whole numbers from 0 to 2**24 - 1 inclusive, exact in float32.

    Notes
    -----
    SplitMix64 at counter ``seed' + i`` (Steele, Lea & Flood 2014): integers only, no state.
    """
    start = mixed(np.array([seed], np.uint64))
    counters = np.arange(layout.num_parameters, dtype=np.uint64)
    return (mixed(start + counters) >> np.uint64(40)).astype(np.float32)


def update_scores(update: NDArray[np.float32], live: NDArray[np.bool_], layout: Layout) -> Scores:
    """Score every weight by how much the round has pulled at it, from the updates that came anyway.

    A live weight's score is ``|d|``, the mean update. For a pruned one nothing was sent; its row and its
    column tell. The gradient of a layer is a sum of products (error of the output) x (input), so where a row
    and a column both move much, the weight in their crossing would, too. The squares that came are fitted by
    products r c of a factor for each row and each column, in turns; the score is ``sqrt(r c)``.

    Parameters
    ----------
    update : ndarray, float32, shape (num_parameters,)
    live : ndarray, bool, shape (num_parameters,)
        Where `update` says something.
    layout : Layout

    Returns
    -------
    ndarray, float32, shape (num_parameters,)
        A tensor without two dimensions, and one in which nothing moves, has zeros at its pruned weights.
    """
    layout.check_flat(update)
    scores = np.abs(update.astype(np.float32, copy=False))
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        held = live[start:end]
        largest = float(scores[start:end][held].max(initial=0.0))
        if len(tensor.shape) < 2 or held.all() or largest == 0.0:
            continue
        shape = (tensor.shape[0], -1)
        # Sums of whole numbers do not depend on their order.
        grid = np.rint(scores[start:end].astype(np.float64) / largest * _GRID).astype(np.int64)
        squares, there = np.where(held, grid * grid, 0).reshape(shape), held.reshape(shape)
        rows, columns = _fitted(squares, there)
        root = np.sqrt(rows)[:, None] * np.sqrt(columns)[None, :]
        expected = (root * (largest / _GRID)).astype(np.float32).reshape(-1)
        scores[start:end] = np.where(held, scores[start:end], expected)
    return scores


def row_norms(flat: NDArray[np.float32], layout: Layout) -> Scores:
    """Score every weight by the L2 norm of its row: entries of one output, the first dimension.

    A tensor of one dimension is a row for each entry. Sums run in float64 in one order on every machine.
    """
    magnitude = magnitude_scores(flat, layout).astype(np.float64)
    scores = np.empty(layout.num_parameters, np.float32)
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        rows = magnitude[start:end].reshape((tensor.shape or (1,))[0], -1)
        norms = np.sqrt(np.cumsum(rows * rows, axis=1)[:, -1])
        scores[start:end] = np.repeat(norms, rows.shape[1])
    return scores


def softened(flat: NDArray[np.float32], layout: Layout, *, alpha: float) -> NDArray[np.float32]:
    """Multiply every row of the prunable tensors by its soft weight ``p_i / sum p``.

    With ``p_i = 1 - |row i| / alpha``; the sum runs over the rows of a tensor. The rule is kept as it was
    written down. What it does: nothing becomes zero but the strongest rows (where alpha is the largest norm),
    and a tensor of n rows shrinks by about n. See ``docs/pruning.md``.

    Parameters
    ----------
    flat : ndarray, float32, shape (num_parameters,)
    layout : Layout
    alpha : float
        At least 0. 0 means, for each tensor, the largest norm of its rows. Norms above it count as it.
    """
    norms = row_norms(flat, layout).astype(np.float64)
    soft = flat.astype(np.float32, copy=True)
    for tensor, (start, end) in zip(layout.tensors, pairwise(layout.offsets), strict=True):
        if not tensor.prunable:
            continue
        bound = alpha or float(norms[start:end].max(initial=0.0))
        if bound == 0.0:
            continue
        rows = tensor.shape[0]
        chance = 1.0 - np.minimum(norms[start:end].reshape(rows, -1)[:, 0] / bound, 1.0)
        total = float(np.cumsum(chance)[-1])
        weights = chance / total if total > 0 else np.full(rows, 1.0 / rows)
        part = flat[start:end].reshape(rows, -1) * weights[:, None]
        soft[start:end] = part.astype(np.float32).reshape(-1)
    return soft


def _fitted(
    squares: NDArray[np.int64], there: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factors of the rows and of the columns whose products have the sums of what is there."""
    columns = np.ones(squares.shape[1], np.float64)
    rows = columns
    for _ in range(_FIT_TURNS):
        rows = _factors(squares, there, others=columns)
        columns = _factors(squares.T, there.T, others=rows)
    return rows, columns


def _factors(
    squares: NDArray[np.int64], there: NDArray[np.bool_], *, others: NDArray[np.float64]
) -> NDArray[np.float64]:
    largest = float(others.max())
    if largest == 0.0:
        return np.zeros(len(squares), np.float64)
    # Whole numbers again, for sums in any order.
    grid = np.rint(others / largest * _GRID).astype(np.int64)
    weights = np.where(there, grid[None, :], 0).sum(axis=1)
    known = weights > 0
    found = squares.sum(axis=1) / (np.maximum(weights, 1) * (largest / _GRID))
    # Of a row without any entry nothing is known: it counts as the mean of the others.
    mean = float(np.cumsum(found[known])[-1]) / int(known.sum()) if known.any() else 0.0
    return np.where(known, found, mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score by its name in the plan.

    Parameters
    ----------
    compute : callable
        From `Evidence` to float32 ``(num_parameters,)``. Raises `PruningError` where the evidence lacks what
        it needs.
    meaning, source : str
        For people: what is scored, and whose formula it is.
    origin : str
        ``gateway`` or ``device``.
    wire : str
        What a device computes and sends, one of the kinds of `hedgerow_edge_client.scores`; empty for those
        of the gateway.
    scores_pruned : bool
        Whether it says something about pruned weights, and can grow them.
    scores_untrained : bool
        Whether it says something about weights that nobody has trained, and can make the first mask.
    """

    compute: Callable[[Evidence], Scores] = field(repr=False)
    meaning: str
    source: str
    origin: str = "gateway"
    wire: str = ""
    scores_pruned: bool = False
    scores_untrained: bool = False

    @property
    def traffic(self) -> str:
        """What it costs on the wire, in words."""
        if self.origin == "gateway":
            return "nothing"
        region = "every weight" if self.scores_pruned else "every live weight"
        return f"up: a score for {region}, coded, in rounds before a change"


def _needed(vector: NDArray[np.float32] | None, what: str) -> NDArray[np.float32]:
    if vector is None:
        raise PruningError(f"there is no {what} to score the weights by yet")
    return vector


def _flow(evidence: Evidence) -> Scores:
    if evidence.flow is None:
        raise PruningError("SynFlow needs the template's graph, and there is none here")
    return evidence.flow(np.where(evidence.mask.live, evidence.weights, np.float32(0)))


def _device(evidence: Evidence) -> Scores:
    return _needed(evidence.device, "score of the devices")


def _device_magnitude(evidence: Evidence) -> Scores:
    return np.abs(_device(evidence))


SCORES: Mapping[str, Score] = {
    "magnitude": Score(
        compute=lambda e: magnitude_scores(e.weights, e.mask.layout),
        meaning="|w|",
        source="Han 2015",
    ),
    "lamp": Score(
        compute=lambda e: lamp_scores(np.where(e.mask.live, e.weights, np.float32(0)), e.mask.layout),
        meaning="w^2 over the sum of the squares at least as large in its tensor",
        source="Lee 2021 (LAMP)",
    ),
    "movement": Score(
        compute=lambda e: _needed(e.movement, "movement"),
        meaning="sum over the rounds of w times its update: what moves away from zero stays",
        source="Sanh 2020, from the updates that came",
    ),
    "update": Score(
        compute=lambda e: update_scores(_needed(e.update, "update"), e.mask.live, e.mask.layout),
        meaning="|update|; for a pruned weight, what its row and column say",
        source="own; stands for RigL's gradient",
        scores_pruned=True,
    ),
    "random": Score(
        compute=lambda e: random_scores(e.mask.layout, seed=e.seed),
        meaning="chance, by the run's seed",
        source="the baseline of all papers",
        scores_pruned=True,
        scores_untrained=True,
    ),
    "row-norm": Score(
        compute=lambda e: row_norms(e.weights, e.mask.layout),
        meaning="L2 norm of the weight's row; rows go as a whole with the budget threshold",
        source="the project's first text",
    ),
    "synflow": Score(
        compute=_flow,
        meaning="|w dR/dw|, R the sum of the outputs of the net of magnitudes on ones",
        source="Tanaka 2020 (SynFlow), data-free, on the gateway",
        scores_untrained=True,
    ),
    "gradient": Score(
        compute=_device_magnitude,
        meaning="|mean gradient|, pruned weights included",
        source="Evci 2020 (RigL's growth)",
        origin="device",
        wire="gradient",
        scores_pruned=True,
    ),
    "squared-gradient": Score(
        compute=_device,
        meaning="E[g^2] over batches, pruned weights included",
        source="Jiang 2022 (PruneFL)",
        origin="device",
        wire="squared-gradient",
        scores_pruned=True,
    ),
    "snip": Score(
        compute=_device_magnitude,
        meaning="|w g|",
        source="Lee 2019 (SNIP)",
        origin="device",
        wire="snip",
        scores_untrained=True,
    ),
    "grasp": Score(
        compute=_device,
        meaning="w (Hg): what keeps the gradient flowing stays",
        source="Wang 2020 (GraSP)",
        origin="device",
        wire="grasp",
        scores_untrained=True,
    ),
    "fisher": Score(
        compute=_device,
        meaning="w^2 E[g^2] / 2, g sample by sample",
        source="LeCun 1990, Theis 2018",
        origin="device",
        wire="fisher",
    ),
    "taylor": Score(
        compute=_device,
        meaning="(g w)^2, mean over batches",
        source="Molchanov 2019",
        origin="device",
        wire="taylor",
    ),
    "information": Score(
        compute=_device,
        meaning="|w| times the bits that its output's activation tells of the label",
        source="mutual information; own form",
        origin="device",
        wire="information",
    ),
}
