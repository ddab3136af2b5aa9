"""Masked cross-entropy: a device says nothing about labels that it has not (Diao et al. 2021, section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task

_ROWS = 256


def with_masked_labels(task: Task, samples: Samples) -> Task:
    """Return a task in whose loss the logits of labels that the samples have not are zero.

    A device without a label would otherwise push its logit down, whatever others know of it. Accuracy is
    measured as before.

    Raises
    ------
    TaskError
        The targets are no classes.
    """
    found: set[int] = set()
    for start in range(0, len(samples), _ROWS):
        with task.blame("reading a batch of the data"):
            _, targets = samples.batch(range(start, min(start + _ROWS, len(samples))))
        if targets.is_floating_point() or targets.dtype == torch.bool or (targets < 0).any():
            raise TaskError("mask_labels needs classes as targets, whole numbers from 0", path=task.path)
        found.update(targets.reshape(-1).tolist())
    present = sorted(found)
    user_loss = task.loss

    def loss(outputs: Any, targets: Any) -> Any:
        if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2 or outputs.shape[1] <= present[-1]:
            raise TaskError(
                f"mask_labels needs one tensor of logits of shape (n, classes), with {present[-1] + 1} "
                "classes or more",
                path=task.path,
            )
        absent = torch.ones(outputs.shape[1], dtype=torch.bool)
        absent[present] = False
        return user_loss(outputs.masked_fill(absent.view(1, -1, *[1] * (outputs.ndim - 2)), 0.0), targets)

    return replace(task, loss=loss)
