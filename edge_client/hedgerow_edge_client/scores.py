"""Importance scores on the device: how much each weight matters on the data that is here.

All return float32 vectors over the whole layout, pruned weights included; buffers and parameters that are
not trained have zeros. The module's tensors, mode and torch's random state are afterwards what they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.forward import forward
from hedgerow_edge_client.information import information_scores
from hedgerow_edge_client.question import Question
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task

Vector = NDArray[np.float32]
_Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What scores are computed with.

    Parameters
    ----------
    module
        Holds the weights, zero where they are pruned.
    samples, task
        This device's data, and the task's loss.
    layout
        Of the module.
    batches
        Indices of the samples of each batch, at least one batch.
    """

    module: nn.Module
    samples: Samples
    task: Task
    layout: Layout
    batches: Sequence[list[int]]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        names = {spec.name for spec in self.layout.tensors}
        return {n: p for n, p in self.module.named_parameters() if n in names and p.requires_grad}

    def flat(self, tensors: _Tensors) -> Vector:
        """Lay tensors out as one vector, zeros for those that are missing."""
        parts = {
            spec.name: tensors[spec.name].detach().numpy()
            if spec.name in tensors
            else np.zeros(spec.shape, np.float32)
            for spec in self.layout.tensors
        }
        return self.layout.join(parts)


def score(question: Question, bench: Bench) -> Vector:
    """Return the scores of a kind of `Question`.

    Raises
    ------
    TaskError
        The user's code fails, or the model or the data are none for this kind.
    """
    with untouched(bench.module):
        scores = _KINDS[question.kind](bench)
    if not np.isfinite(scores).all():
        raise TaskError(
            f"the {question.kind} scores are not finite: look for NaN and unscaled values in the data"
        )
    return scores


def draw_batches(num_samples: int, *, count: int, size: int, seed: int) -> list[list[int]]:
    """Draw `count` batches (fewer where the data ends) that depend on the seed alone."""
    order: list[int] = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed)).tolist()
    batches = [order[start : start + size] for start in range(0, min(len(order), count * size), size)]
    # Batch normalisation cannot take a batch of one.
    return [batch for batch in batches if len(batch) > 1] or batches[:1]


def _mean_gradients(bench: Bench, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Vector:
    """Return the mean over the batches of what `measure` makes of each parameter's gradient."""
    parameters = bench.parameters()
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    bench.module.train()
    for batch in bench.batches:
        for name, gradient in _gradients(bench, batch, parameters).items():
            sums[name] += measure(gradient, parameters[name].detach())
    return bench.flat({name: total / len(bench.batches) for name, total in sums.items()})


def _gradients(
    bench: Bench, batch: list[int], parameters: Mapping[str, nn.Parameter], *, create_graph: bool = False
) -> dict[str, torch.Tensor]:
    loss, _, _ = forward(bench.module, bench.samples, batch, bench.task)
    with bench.task.blame("the loss's gradient"):
        found = torch.autograd.grad(
            loss, list(parameters.values()), create_graph=create_graph, allow_unused=True
        )
    named = zip(parameters, found, strict=True)
    return {name: g.to_dense() if g.is_sparse else g for name, g in named if g is not None}


def _gradient(bench: Bench) -> Vector:
    return _mean_gradients(bench, lambda gradient, _: gradient)


def _squared_gradient(bench: Bench) -> Vector:
    return _mean_gradients(bench, lambda gradient, _: gradient.square())


def _snip(bench: Bench) -> Vector:
    # With its sign, so that the mean over the devices is that of one batch of all of them.
    return _mean_gradients(bench, lambda gradient, weight: gradient * weight)


def _taylor(bench: Bench) -> Vector:
    return _mean_gradients(bench, lambda gradient, weight: (gradient * weight).square())


def _fisher(bench: Bench) -> Vector:
    """Return ``w^2 E[g^2] / 2`` with the gradients of single samples, statistics of norms frozen."""
    parameters = bench.parameters()
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    bench.module.eval()
    rows = [index for batch in bench.batches for index in batch]
    for index in rows:
        for name, gradient in _gradients(bench, [index], parameters).items():
            sums[name] += gradient.square()
    return bench.flat(
        {name: parameters[name].detach().square() * total / (2 * len(rows)) for name, total in sums.items()}
    )


def _grasp(bench: Bench) -> Vector:
    """Return ``w (H g)``: the gradient of ``g . stop(g)``, g the mean over the batches (Wang 2020, eq. 8)."""
    parameters = bench.parameters()
    bench.module.train()
    mean = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for batch in bench.batches:
        for name, gradient in _gradients(bench, batch, parameters).items():
            mean[name] += gradient / len(bench.batches)
    product = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for batch in bench.batches:
        gradients = _gradients(bench, batch, parameters, create_graph=True)
        terms = [(g * mean[name]).sum() for name, g in gradients.items() if g.requires_grad]
        if not terms:
            continue
        found = torch.autograd.grad(torch.stack(terms).sum(), list(parameters.values()), allow_unused=True)
        for name, curved in zip(parameters, found, strict=True):
            if curved is not None:
                product[name] += curved / len(bench.batches)
    return bench.flat({name: parameters[name].detach() * hg for name, hg in product.items()})


def _information(bench: Bench) -> Vector:
    return information_scores(
        bench.module, bench.samples, layout=bench.layout, batches=bench.batches, task=bench.task
    )


_KINDS: Mapping[str, Callable[[Bench], Vector]] = {
    "gradient": _gradient,
    "squared-gradient": _squared_gradient,
    "snip": _snip,
    "grasp": _grasp,
    "fisher": _fisher,
    "taylor": _taylor,
    "information": _information,
}


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Give tensors, mode and random state back as they were: norms count what they see."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    training, random_state = module.training, torch.get_rng_state()
    try:
        yield
    finally:
        module.train(training)
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                value.copy_(state[name])
