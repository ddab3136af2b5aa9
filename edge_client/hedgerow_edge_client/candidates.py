"""Masks tried on the device: the loss of each, with the running statistics of this device's data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Mask, counted_mask
from hedgerow_edge_client.forward import forward
from hedgerow_edge_client.parameters import write_parameters
from hedgerow_edge_client.scores import Bench, untouched

# What a loss counts as that is larger, or no number.
LARGEST_LOSS = 1e9


def candidate_losses(
    weights: NDArray[np.float32], *, live: NDArray[np.bool_], counts: Sequence[Sequence[int]], bench: Bench
) -> NDArray[np.float32]:
    """Return the mean loss of each candidate on the bench's batches, ``(len(counts),)``.

    Huang et al. 2023 (FedTiny), adaptive batch-norm selection: batch norms take the mean and the variance of
    what the pruned model sees here, then the loss is that of evaluation. The module's tensors and mode are
    afterwards what they were.

    Parameters
    ----------
    weights
        The published weights, ``(num_parameters,)``.
    live
        The shared mask.
    counts
        For each candidate, how many weights each tensor keeps.
    bench
        The module, the data and the batches.

    Raises
    ------
    TaskError
        The user's code fails.
    ValueError
        The counts do not fit the model.
    """
    shared = Mask(layout=bench.layout, live=live)
    losses = []
    with untouched(bench.module):
        for count in counts:
            mask = counted_mask(weights, mask=shared, counts=count)
            write_parameters(bench.module, bench.layout, np.where(mask.live, weights, np.float32(0)))
            losses.append(_loss(bench))
    return np.array(losses, np.float32)


def _loss(bench: Bench) -> float:
    with _calibrating(bench.module), torch.no_grad():
        for batch in bench.batches:
            inputs, _ = bench.samples.batch(batch)
            with bench.task.blame("the model"):
                bench.module(inputs)
    bench.module.eval()
    total = 0.0
    for batch in bench.batches:
        loss, _, _ = forward(bench.module, bench.samples, batch, bench.task)
        total += float(loss.detach()) * len(batch)
    mean = total / sum(map(len, bench.batches))
    return mean if mean < LARGEST_LOSS else LARGEST_LOSS


@contextlib.contextmanager
def _calibrating(module: nn.Module) -> Iterator[None]:
    """Let batch norms, and nothing else, train: statistics begin anew, as plain means over the batches."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
