"""A device's own share of data that is not trained on, and how good a model is on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task
from hedgerow_export import MetricError, find_metric

_ROWS = 256


class SomeSamples:
    """Some of a task's samples, in a fixed order.

    Parameters
    ----------
    samples
        All of them.
    indices
        Which, at least one.
    """

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self._samples, self._indices = samples, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (inputs, targets) of these."""
        return self._samples.batch([self._indices[index] for index in indices])


def parted(samples: Samples, share: float) -> tuple[Samples, Samples | None]:
    """Return what is trained on, and what is held out; that is None where it would be nothing.

    The parts depend on the number of samples alone, so that they are the same in every round, and whatever is
    trained on once is never held out.

    Parameters
    ----------
    samples
        The device's.
    share
        To be held out, 0 to 1 exclusive; both parts have one sample at least.
    """
    count = min(round(share * len(samples)), len(samples) - 1)
    if count < 1:
        return samples, None
    seed = int.from_bytes(hashlib.blake2b(b"held out", digest_size=8).digest(), "little")
    order: list[int] = torch.randperm(
        len(samples), generator=torch.Generator().manual_seed(seed % 2**63)
    ).tolist()
    return SomeSamples(samples, sorted(order[count:])), SomeSamples(samples, sorted(order[:count]))


def measured(module: nn.Module, samples: Samples, task: Task) -> float:
    """Return the task's metric of a module as it is, in evaluation mode; its mode is afterwards as before.

    Raises
    ------
    TaskError
        The user's code fails, or the metric does not fit.
    """
    metric, training = find_metric(task.metric), module.training
    module.eval()
    total = 0.0
    try:
        for start in range(0, len(samples), _ROWS):
            with task.blame("reading a batch of the data"):
                inputs, targets = samples.batch(range(start, min(start + _ROWS, len(samples))))
            with torch.no_grad(), task.blame("the model"):
                outputs = module(inputs)
            first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            if not isinstance(first, torch.Tensor):
                raise TaskError(f"the model returns a {type(first).__name__}, not a tensor", path=task.path)
            total += float(np.sum(metric.score(first.numpy(), targets.numpy())))
    except MetricError as error:
        raise TaskError(str(error), path=task.path) from error
    finally:
        module.train(training)
    return total / len(samples)
