"""One batch through the model and the loss, with the user's faults told as such."""

from __future__ import annotations

import torch
from torch import nn

from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task


def forward(
    module: nn.Module, samples: Samples, indices: list[int], task: Task
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the loss of some samples, as a tensor without dimensions, with outputs and targets.

    Raises
    ------
    TaskError
        The user's code fails, or gives what cannot be used.
    """
    with task.blame("reading a batch of the data"):
        inputs, targets = samples.batch(indices)
    with task.blame(f"the model, on a batch of shape {tuple(inputs.shape)},"):
        try:
            outputs = module(inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TaskError(
                "batch normalisation cannot train on a batch of one sample: raise batch_size in the plan, "
                "or give this client more data"
            ) from error
    with task.blame("loss"):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise TaskError(f"loss returns a {found}: return a tensor with one number in it", path=task.path)
    if not loss.requires_grad:
        raise TaskError(
            "the loss does not depend on the model's parameters: "
            "compute it from `outputs`, without detach(), item() or numpy()",
            path=task.path,
        )
    return loss.reshape(()), outputs, targets
