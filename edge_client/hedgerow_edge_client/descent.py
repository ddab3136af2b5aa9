"""Stochastic gradient descent on the live entries, written out: one slot for each parameter.

`torch.optim` is not imported: it pulls in a compiler, 80 MB of memory and a second of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout
from hedgerow_edge_client.requests import TrainRequest


@dataclass(slots=True)
class Slot:
    """A parameter, its dead entries, where it started, and its velocity."""

    weight: nn.Parameter
    dead: torch.Tensor | None
    anchor: torch.Tensor | None
    power: float = 1.0
    # FIARSE: the smallest magnitude that counts, and the weights with those that do not.
    threshold: float = 0.0
    latent: torch.Tensor | None = None
    velocity: torch.Tensor | None = None


class Descent:
    """Stochastic gradient descent on the live entries."""

    def __init__(
        self, module: nn.Module, layout: Layout, request: TrainRequest, *, live: NDArray[np.bool_]
    ) -> None:
        self._request = request
        first_weights = request.weights
        self._slots = []
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
            slot = Slot(weight, dead, anchor, power=power)
            if request.biased and dead is not None and not dead.all():
                slot.latent = weight.detach().clone()
                slot.threshold = float(slot.latent.abs()[~dead].min())
            self._slots.append(slot)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients, and clear them."""
        request = self._request
        for slot in self._slots:
            weight, gradient = slot.weight, slot.weight.grad
            if gradient is None:
                continue
            weight.grad = None
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            if request.weight_decay:
                gradient = gradient.add(weight, alpha=request.weight_decay)
            if slot.anchor is not None:
                gradient = gradient.add(weight - slot.anchor, alpha=request.proximal_mu)
            if slot.latent is not None:
                size = slot.latent.abs()
                bias = 2.0 * slot.threshold * size / (size + slot.threshold).square().clamp_min(1e-30)
                gradient = gradient.mul(1.0 + bias).masked_fill(size < slot.threshold, 0.0)
            if slot.power != 1.0:
                # From the gradient of w to that of u, whose magnitude is |w|^(1/a).
                gradient = gradient.mul(slot.power * weight.abs().pow(1.0 - 1.0 / slot.power))
            if slot.dead is not None:
                # Not a product with 0, which would leave a NaN what it is.
                gradient = gradient.masked_fill(slot.dead, 0.0)
            if request.momentum:
                if slot.velocity is None:
                    slot.velocity = gradient.clone()
                else:
                    slot.velocity.mul_(request.momentum).add_(gradient)
                gradient = slot.velocity
            if slot.latent is not None:
                slot.latent.add_(gradient, alpha=-request.learning_rate)
                weight.copy_(slot.latent.masked_fill(slot.latent.abs() < slot.threshold, 0.0))
                continue
            if slot.power == 1.0:
                weight.add_(gradient, alpha=-request.learning_rate)
                continue
            root = weight.sign().mul_(weight.abs().pow(1.0 / slot.power))
            root.add_(gradient, alpha=-request.learning_rate)
            weight.copy_(root.sign().mul_(root.abs().pow(slot.power)))

    @torch.no_grad()
    def finish(self) -> None:
        """Give the weights back that were below their threshold for the model alone."""
        for slot in self._slots:
            if slot.latent is not None:
                slot.weight.copy_(slot.latent)
