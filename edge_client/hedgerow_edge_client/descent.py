"""Stochastic gradient descent on the live entries, written out: one slot for each parameter.

`torch.optim` is not imported: it pulls in a compiler, 80 MB of memory and a second of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout
from hedgerow_edge_client.proposals import open_tensors
from hedgerow_edge_client.requests import TrainRequest


@dataclass(slots=True)
class Slot:
    """A parameter, its dead entries, where it started, and its velocity."""

    weight: nn.Parameter
    # Its place in the layout.
    first: int
    dead: torch.Tensor | None
    anchor: torch.Tensor | None
    power: float = 1.0
    # FIARSE: the smallest magnitude that counts, and the weights with those that do not.
    threshold: float = 0.0
    latent: torch.Tensor | None = None
    velocity: torch.Tensor | None = None
    # What pruned weights become behind the mask, with the others as they are.
    hidden: torch.Tensor | None = None
    # Which weights are about to be pruned.
    marked: torch.Tensor | None = None
    is_prunable: bool = False


class Descent:
    """Stochastic gradient descent on the live entries.

    Parameters
    ----------
    module, layout
        The model with the weights to begin with, and its layout.
    request
        Says how; see `training.train` and `Shaping`.
    live
        The entries that are trained.
    num_steps
        How many steps there will be, unless time runs out.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        request: TrainRequest,
        *,
        live: NDArray[np.bool_],
        num_steps: int = 1,
    ) -> None:
        self._request, self._layout = request, layout
        self._steps, self._num_steps = 0, num_steps
        first_weights = request.weights
        self._slots = []
        open_now = open_tensors(request, layout=layout)
        parameters = dict(module.named_parameters())
        for spec, first in zip(layout.tensors, layout.offsets, strict=False):
            weight = parameters.get(spec.name)
            if weight is None or not weight.requires_grad:
                continue
            weight.grad = None
            part = slice(first, first + spec.size)
            dead = None if live[part].all() else torch.from_numpy(~live[part]).reshape(spec.shape)
            anchor = None
            if request.proximal_mu:
                held = np.where(live[part], first_weights[part], np.float32(0))
                anchor = torch.from_numpy(held).reshape(spec.shape)
            power = request.power if spec.kind in ("conv", "linear") else 1.0
            slot = Slot(weight, first, dead, anchor, power=power, is_prunable=spec.prunable)
            if request.biased and dead is not None and not dead.all():
                slot.latent = weight.detach().clone()
                slot.threshold = float(slot.latent.abs()[~dead].min())
            if request.shaping.latent and spec.prunable and dead is not None:
                slot.hidden = weight.detach().clone()
            if request.shaping.extrusion and spec.name in open_now:
                slot.marked = _marked(slot, share=request.shaping.marked)
            self._slots.append(slot)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients, and clear them."""
        request, shaping, rate = self._request, self._request.shaping, self._rate()
        self._steps += 1
        for slot in self._slots:
            weight, gradient = slot.weight, slot.weight.grad
            if gradient is None:
                continue
            weight.grad = None
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            if request.weight_decay:
                decayed = weight if slot.hidden is None else slot.hidden
                gradient = gradient.add(decayed, alpha=request.weight_decay)
            pull = shaping.pull(weight) if slot.is_prunable else None
            if pull is not None:
                gradient = gradient.add(pull)
            if slot.marked is not None:
                gradient = gradient.add(weight * slot.marked, alpha=2.0 * shaping.extrusion)
            if slot.anchor is not None:
                gradient = gradient.add(weight - slot.anchor, alpha=request.proximal_mu)
            if slot.latent is not None:
                size = slot.latent.abs()
                bias = 2.0 * slot.threshold * size / (size + slot.threshold).square().clamp_min(1e-30)
                gradient = gradient.mul(1.0 + bias).masked_fill(size < slot.threshold, 0.0)
            if slot.power != 1.0:
                # From the gradient of w to that of u, whose magnitude is |w|^(1/a).
                gradient = gradient.mul(slot.power * weight.abs().pow(1.0 - 1.0 / slot.power))
            if slot.dead is not None and slot.hidden is None:
                # Not a product with 0, which would leave a NaN what it is.
                gradient = gradient.masked_fill(slot.dead, 0.0)
            if request.momentum:
                if slot.velocity is None:
                    slot.velocity = gradient.clone()
                else:
                    slot.velocity.mul_(request.momentum).add_(gradient)
                gradient = slot.velocity
            if slot.latent is not None:
                slot.latent.add_(gradient, alpha=-rate)
                weight.copy_(slot.latent.masked_fill(slot.latent.abs() < slot.threshold, 0.0))
                continue
            if slot.hidden is not None and slot.dead is not None:
                slot.hidden.add_(gradient, alpha=-rate)
                weight.copy_(slot.hidden.masked_fill(slot.dead, 0.0))
                continue
            if slot.power == 1.0:
                weight.add_(gradient, alpha=-rate)
                continue
            root = weight.sign().mul_(weight.abs().pow(1.0 / slot.power))
            root.add_(gradient, alpha=-rate)
            moved = root.sign().mul_(root.abs().pow(slot.power))
            # The root of what stays is rounded, and would not come back as what it was.
            weight.copy_(moved if slot.dead is None else torch.where(slot.dead, weight, moved))

    @torch.no_grad()
    def finish(self) -> None:
        """Give the weights back that were below their threshold for the model alone."""
        for slot in self._slots:
            if slot.latent is not None:
                slot.weight.copy_(slot.latent)

    def hidden(self) -> NDArray[np.float32]:
        """Return what pruned weights have become behind the mask, ``(num_parameters,)``; 0 elsewhere."""
        flat = np.zeros(self._layout.num_parameters, np.float32)
        for slot in self._slots:
            if slot.hidden is not None and slot.dead is not None:
                kept = slot.hidden.masked_fill(~slot.dead, 0.0).reshape(-1)
                flat[slot.first : slot.first + len(kept)] = kept.numpy()
        return flat

    def _rate(self) -> float:
        """Return the learning rate: at an extrusion, at least what the budget of steps asks for.

        Huang et al. 2024 (FedMef), equations 3 to 5: ``max(rate, p(t) (2 sigmoid(|marked|) - 1) first rate)``
        with ``p(t) = (2 T - 2 t) / (2 T - t)``.
        """
        request, shaping = self._request, self._request.shaping
        if shaping.extrusion == 0.0 or shaping.first_rate == 0.0:
            return request.learning_rate
        squares = [float((s.weight * s.marked).square().sum()) for s in self._slots if s.marked is not None]
        left = 2.0 * (self._num_steps - self._steps) / max(2 * self._num_steps - self._steps, 1)
        push = 2.0 / (1.0 + math.exp(-math.sqrt(sum(squares)))) - 1.0
        return max(request.learning_rate, left * push * shaping.first_rate)


def _marked(slot: Slot, *, share: float) -> torch.Tensor:
    """Mark the smallest live weights of a tensor, as many as its share says."""
    magnitude = slot.weight.detach().abs().reshape(-1)
    if slot.dead is not None:
        magnitude = magnitude.masked_fill(slot.dead.reshape(-1), math.inf)
    count = int(share * int(torch.isfinite(magnitude).sum()))
    marked = torch.zeros_like(magnitude)
    marked[torch.argsort(magnitude, stable=True)[:count]] = 1.0
    return marked.reshape(slot.weight.shape)
