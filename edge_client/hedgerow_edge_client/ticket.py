"""The beginning of a personal training: measure the device's model, thin it where that is due."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from hedgerow_codecs import Frozen, Layout
from hedgerow_edge_client.held_out import measured, parted
from hedgerow_edge_client.parameters import write_parameters
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.samples import Samples
from hedgerow_edge_client.task import Task
from hedgerow_export import find_metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a personal training goes on with.

    Parameters
    ----------
    request
        The same, with the device's new mask and the weights to start from.
    samples
        What is trained on.
    metric
        Of the shared weights under the device's mask, as it was, on what is held out; None without that.
    """

    request: TrainRequest
    samples: Samples
    metric: float | None


def draw_ticket(
    module: nn.Module,
    samples: Samples,
    request: TrainRequest,
    *,
    task: Task,
    layout: Layout,
    held_out: Samples | None = None,
) -> Ticket:
    """Measure the device's own model, and thin it where its rule says so.

    Parameters
    ----------
    module
        The task's model; its float tensors are overwritten.
    samples
        The task's data.
    request
        With a rule for personal models.
    task
        Gives the metric.
    layout
        Of the module.
    held_out
        What the task itself holds out; None takes the rule's share of the samples.

    Raises
    ------
    TaskError
        The user's code fails, or the metric does not fit.
    ValueError
        The rule cannot be carried out here.
    """
    rule = request.personal
    assert rule is not None
    if held_out is None:
        samples, held_out = parted(samples, rule.held_out)
    live, weights = request.live, np.where(request.live, request.weights, np.float32(0))
    metric = None
    if held_out is not None:
        write_parameters(module, layout, weights)
        metric = measured(module, held_out, task)
    if rule.is_due(metric, higher_is_better=find_metric(task.metric).higher_is_better):
        thinner = rule.thinned(weights, live=live, layout=layout)
        if rule.rewind and not np.array_equal(thinner, live):
            frozen = Frozen(layout=layout, names=request.frozen).entries
            weights = np.where(frozen, weights, rule.first_weights(layout))
        live = thinner
    weights = np.where(live, weights, np.float32(0))
    return Ticket(request=replace(request, weights=weights, live=live), samples=samples, metric=metric)
