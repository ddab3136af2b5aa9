"""Training how likely each weight is to be in a network of frozen weights (Isik et al. 2023, "FedPM").

Each step samples a network: the frozen weights times a mask of coin tosses. The gradient of a mask's entry is
taken for that of its probability (straight-through), and the step is one of the score s, of which the
probability is the logistic function. Steps are Adam's (Kingma & Ba 2015), as in the method's released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import Layout, sampled_entries, signed_constants
from hedgerow_edge_client.parameters import write_parameters
from hedgerow_edge_client.requests import TrainRequest

# Probabilities are kept this far from 0 and 1, where scores are infinite.
LEAST = 0.01
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(slots=True)
class _Slot:
    weight: nn.Parameter
    part: slice
    frozen: torch.Tensor
    scores: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class MaskDescent:
    """Descend on the scores of a network's weights.

    Parameters
    ----------
    module, layout
        The model, whose parameters become the network of each step, and its layout.
    request
        With a seed in `sampled`, and probabilities as weights.

    Raises
    ------
    hedgerow_codecs.LayoutError
        The model has tensors that can be neither frozen nor sampled.
    """

    def __init__(self, module: nn.Module, layout: Layout, request: TrainRequest) -> None:
        assert request.sampled is not None
        frozen = signed_constants(layout, seed=request.sampled)
        write_parameters(module, layout, frozen)
        self._rate, self._steps = request.learning_rate, 0
        self._tosses = torch.Generator().manual_seed(request.seed % 2**63)
        self._bits = np.ones(layout.num_parameters, np.float32)
        entries, parameters = sampled_entries(layout), dict(module.named_parameters())
        self._slots = []
        for spec, start in zip(layout.tensors, layout.offsets, strict=False):
            weight, part = parameters[spec.name], slice(start, start + spec.size)
            weight.grad = None
            if not entries[start]:
                continue
            likely = torch.from_numpy(np.clip(request.weights[part], LEAST, 1 - LEAST)).reshape(spec.shape)
            scores = torch.log(likely / (1 - likely))
            self._slots.append(
                _Slot(
                    weight=weight,
                    part=part,
                    frozen=torch.from_numpy(frozen[part].copy()).reshape(spec.shape),
                    scores=scores,
                    first=torch.zeros_like(scores),
                    second=torch.zeros_like(scores),
                )
            )
        self._sample()

    @torch.no_grad()
    def step(self) -> None:
        """Take one step of the scores along the gradients, clear these, and sample another network."""
        self._steps += 1
        for slot in self._slots:
            gradient = slot.weight.grad
            if gradient is None:
                continue
            slot.weight.grad = None
            likely = torch.sigmoid(slot.scores)
            gradient = gradient * slot.frozen * likely * (1 - likely)
            slot.first.mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
            slot.second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
            first = slot.first / (1 - _FIRST**self._steps)
            second = slot.second / (1 - _SECOND**self._steps)
            slot.scores.sub_(self._rate * first / (second.sqrt() + _EPSILON))
        self._sample()

    def bits(self) -> NDArray[np.float32]:
        """Return the mask that was sampled last, 0 and 1, ``(num_parameters,)``; 1 for norms."""
        return self._bits

    @torch.no_grad()
    def _sample(self) -> None:
        for slot in self._slots:
            bits = torch.bernoulli(torch.sigmoid(slot.scores), generator=self._tosses)
            slot.weight.copy_(slot.frozen * bits)
            self._bits[slot.part] = bits.reshape(-1).numpy()
