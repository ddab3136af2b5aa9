"""How training is bent towards a sparse model, as a round's plan says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REGULARIZERS = ("none", "l1", "l2", "norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """What a device does beside plain descent; by default nothing.

    Parameters
    ----------
    latent
        Whether pruned weights are trained on behind the mask: the gradient is that of the pruned model, and
        the step is one of all weights (Lin 2020, "Dynamic model pruning with feedback", equation 1).
    regularizer
        One of `REGULARIZERS`, on the prunable tensors: ``l1`` adds ``sum |w|`` to the loss, ``l2`` half of
        ``sum w^2``, ``norm`` the L2 norm of each tensor, not squared.
    strength
        What the regulariser is multiplied by, at least 0.
    activations
        Share of a layer's input that linear and convolution layers keep for the gradient of their weights,
        0 to 1; 0: as many as the layer's weights that are live.
    extrusion
        What the sum of the squares of the marked weights is multiplied by, at least 0.
    marked
        Share of the live weights, the smallest ones, that is marked in each tensor that the round's question
        is about, 0 to 1 exclusive.
    first_rate
        The run's first learning rate, for an extrusion; 0 where there is none.

    Raises
    ------
    ValueError
        It cannot be done here; the message is a sentence.
    """

    latent: bool = False
    regularizer: str = "none"
    strength: float = 0.0
    activations: float = 1.0
    extrusion: float = 0.0
    marked: float = 0.0
    first_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.regularizer not in REGULARIZERS:
            raise ValueError(
                f"the regulariser '{self.regularizer}' is not known here; update Hedgerow on this device"
            )
        in_bounds = 0 <= self.activations <= 1 and 0 <= self.marked < 1
        for amount in (self.strength, self.extrusion, self.first_rate):
            in_bounds = in_bounds and 0 <= amount < math.inf
        if not in_bounds:
            raise ValueError(
                f"the plan asks for a regulariser times {self.strength}, for {self.activations} of the "
                f"activations and for an extrusion of {self.marked} of the weights times {self.extrusion}, "
                "which makes no sense"
            )

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Shaping:
        """Read what a round plan tells, as plain data.

        Raises
        ------
        ValueError
            It cannot be done here.
        """
        if not isinstance(told, Mapping):
            raise ValueError("the plan shapes the training in a way that makes no sense")
        names = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in told.items() if name in names}
        for name, value in values.items():
            if not _is_plain(value, like=getattr(_PLAIN, name)):
                raise ValueError(f"the plan says {name} {value!r} about the training, which makes no sense")
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for the trainer's pipe."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def pull(self, weight: torch.Tensor) -> torch.Tensor | None:
        """Return the regulariser's gradient at a tensor of weights; None where there is none."""
        if self.strength == 0.0 or self.regularizer == "none":
            return None
        if self.regularizer == "l1":
            return weight.sign().mul_(self.strength)
        if self.regularizer == "l2":
            return weight.mul(self.strength)
        norm = weight.norm()
        return weight.mul(self.strength / norm) if norm > 0 else None


def _is_plain(value: object, *, like: object) -> bool:
    if isinstance(like, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(like)


_PLAIN = Shaping()
