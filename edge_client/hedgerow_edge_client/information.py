"""Information gain: what the outputs of a layer tell about the label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task

NUM_BINS = 8
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def mutual_information(activations: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mutual information between each column and the label, in bits, at least 0.

    Parameters
    ----------
    activations : ndarray, float64, shape (num_samples, num_units)
        Cut into `NUM_BINS` bins of about equal numbers of samples; equal values are in one bin.
    labels : ndarray, int64, shape (num_samples,)

    Examples
    --------
    >>> tells = np.array([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0], [5.0, 1.0]])
    >>> mutual_information(tells, np.array([0, 0, 1, 1])).tolist()
    [1.0, 0.0]
    """
    edges = np.quantile(activations, np.arange(1, NUM_BINS) / NUM_BINS, axis=0)
    classes, codes = np.unique(labels, return_inverse=True)
    gains = np.zeros(activations.shape[1])
    for unit in range(activations.shape[1]):
        bins = np.searchsorted(edges[:, unit], activations[:, unit], side="right")
        table = np.zeros((NUM_BINS, len(classes)))
        np.add.at(table, (bins, codes), 1.0)
        table /= table.sum()
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
        there = table > 0
        gains[unit] = max(0.0, float((table[there] * np.log2(table[there] / expected[there])).sum()))
    return gains


def information_scores(
    module: nn.Module,
    samples: Samples,
    *,
    layout: Layout,
    batches: Sequence[list[int]],
    task: Task,
) -> NDArray[np.float32]:
    """Score each weight by ``|w|`` times the bits that its output tells about the label.

    An output of a convolution is its mean over the places. Tensors that are not pruned have zeros.

    Raises
    ------
    TaskError
        The labels are no whole numbers, or a prunable tensor is no weight of a linear or convolution layer.
    """
    owners = {f"{name}.weight" if name else "weight": layer for name, layer in module.named_modules()}
    layers = {}
    for spec in layout.tensors:
        if not spec.prunable:
            continue
        layer = owners.get(spec.name)
        if not isinstance(layer, _LAYERS):
            raise TaskError(
                f"information scores need linear and convolution layers, and tensor '{spec.name}' belongs to "
                "none: choose another score in the plan, or protect the tensor in the task file"
            )
        layers[spec.name] = layer
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    labels = []
    hooks = [layer.register_forward_hook(_keeper(outputs[name])) for name, layer in layers.items()]
    module.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                inputs, targets = samples.batch(batch)
                with task.blame("the model"):
                    module(inputs)
                labels.append(_labels(targets, task))
    finally:
        for hook in hooks:
            hook.remove()
    label = np.concatenate(labels)
    parts = {}
    for spec in layout.tensors:
        parts[spec.name] = np.zeros(spec.shape, np.float32)
        if spec.name in layers:
            activations = torch.cat(outputs[spec.name]).double().numpy()
            if len(activations) != len(label):
                raise TaskError("information scores need each layer to be used once for each sample")
            gains = mutual_information(activations, label)
            weight = layers[spec.name].weight.detach().abs().numpy()
            parts[spec.name] = (weight * gains.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    return layout.join(parts)


def _keeper(kept: list[torch.Tensor]) -> Callable[[nn.Module, object, torch.Tensor], None]:
    def keep(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        # Linear layers have their outputs in the last dimension, convolutions in the second.
        units_last = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
        kept.append(units_last.reshape(len(units_last), -1, units_last.shape[-1]).mean(dim=1))

    return keep


def _labels(targets: torch.Tensor, task: Task) -> NDArray[np.int64]:
    if targets.ndim != 1 or targets.is_floating_point():
        raise TaskError(
            "information scores need one class for each sample: choose another score in the plan",
            path=task.path,
        )
    return targets.long().numpy()
