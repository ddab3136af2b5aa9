"""What is known about the weights at the moment in which a mask is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask

if TYPE_CHECKING:
    from hedgerow_export import ChannelGroups

Vector = NDArray[np.float32]
Memory = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What scores are computed from; each vector is flat, ``(num_parameters,)``.

    Parameters
    ----------
    weights : ndarray, float32
        After the round's mean.
    mask : Mask
        Under which they were trained, or the union of those that the devices have proposed.
    update : ndarray, float32, or None
        The mean update of the round; zero where nobody has sent anything.
    movement : ndarray, float32, or None
        Sum over the rounds so far of weight times mean update, since the weight is live.
    device : ndarray, float32, or None
        The mean of what the devices have scored; zero where they have scored nothing.
    votes : ndarray, float32, or None
        Share of the devices' samples, 0 to 1, behind each weight of their proposed masks.
    memory : Mapping[str, ndarray]
        What the policy remembers, by name.
    round : int
        The round, from 1, that will train under the new mask.
    seed : int
        For scores that are random; differs between rounds.
    groups : ChannelGroups or None
        The template's dependency groups, as far as masks can take their channels.
    flow : callable or None
        Weights in, SynFlow's scores out; None where the template has no such graph.
    """

    weights: Vector = field(repr=False)
    mask: Mask
    update: Vector | None = field(default=None, repr=False)
    movement: Vector | None = field(default=None, repr=False)
    device: Vector | None = field(default=None, repr=False)
    votes: Vector | None = field(default=None, repr=False)
    memory: Memory = field(default_factory=dict, repr=False)
    round: int = 1
    seed: int = 0
    groups: "ChannelGroups | None" = field(default=None, repr=False)
    flow: Callable[[Vector], Vector] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for vector in (self.weights, self.update, self.movement, self.device, self.votes):
            if vector is not None:
                self.mask.layout.check_flat(vector)
