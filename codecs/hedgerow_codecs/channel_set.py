"""Channels of a model as both ends of a link know them: which slices of which tensors make and read them.

The coordinator finds them in the graph of the template; a device has no graph, and is told them as text. A
channel can go from a mask, or a whole model be cut down to the first channels of each set (Diao et al. 2021,
"HeteroFL", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask

_FIELDS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSlice:
    """What of one axis of a tensor belongs to the channels of a set.

    Index ``start + step * j + stride * b`` along `axis` belongs to channel j, for b from 0 to `block` - 1.

    Parameters
    ----------
    tensor : int
        Its place in the layout.
    axis, start, step, block, stride : int
    makes : bool
        Whether the channel comes out of these rows.
    """

    tensor: int
    axis: int
    start: int = 0
    step: int = 1
    block: int = 1
    stride: int = 1
    makes: bool = False

    def indices(self, size: int) -> NDArray[np.int64]:
        """Return the indices of each channel, shape ``(size, block)``."""
        channels, blocks = np.arange(size)[:, None], np.arange(self.block)[None]
        return (self.start + self.step * channels + self.stride * blocks).astype(np.int64)

    @classmethod
    def of(cls, indices: NDArray[np.int64], *, tensor: int, axis: int, makes: bool) -> ChannelSlice | None:
        """Return the slice with these indices; None where they are not regular."""
        size, block = indices.shape
        found = cls(
            tensor=tensor,
            axis=axis,
            start=int(indices[0, 0]),
            step=int(indices[1, 0] - indices[0, 0]) if size > 1 else 1,
            block=block,
            stride=int(indices[0, 1] - indices[0, 0]) if block > 1 else 1,
            makes=makes,
        )
        return found if np.array_equal(found.indices(size), indices) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSet:
    """Channels that the same tensors hold, each of which can go without the others.

    Parameters
    ----------
    size : int
        Number of channels, at least 2.
    slices : tuple[ChannelSlice, ...]

    Examples
    --------
    >>> from hedgerow_codecs import TensorSpec
    >>> layout = Layout(tensors=(TensorSpec(name="a", shape=(4, 2), kind="linear", prunable=True),
    ...                          TensorSpec(name="b", shape=(1, 4), kind="linear", prunable=True)))
    >>> channels = ChannelSet(size=4, slices=(ChannelSlice(tensor=0, axis=0, makes=True),
    ...                                       ChannelSlice(tensor=1, axis=1)))
    >>> channels.to_text()
    '4;0,0,0,1,1,1,1;1,1,0,1,1,1,0'
    >>> ChannelSet.parse(channels.to_text(), layout=layout) == channels
    True
    >>> channels.live(np.arange(4) < 1, layout=layout).astype(int)
    array([1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    """

    size: int
    slices: tuple[ChannelSlice, ...]

    def to_text(self) -> str:
        """Return it as text of numbers."""
        rows = [(s.tensor, s.axis, s.start, s.step, s.block, s.stride, int(s.makes)) for s in self.slices]
        return ";".join([str(self.size), *(",".join(map(str, row)) for row in rows)])

    @classmethod
    def parse(cls, text: str, *, layout: Layout) -> ChannelSet:
        """Read what `to_text` wrote, for a layout.

        Raises
        ------
        LayoutError
            It is no such text, or does not fit the layout.
        """
        try:
            head, *rest = text.split(";")
            rows = [[int(number) for number in row.split(",")] for row in rest]
            size = int(head)
        except ValueError:
            raise LayoutError(f"{text!r:.60} describes no channels") from None
        if not rows or any(len(row) != _FIELDS for row in rows) or size < 2:
            raise LayoutError(f"{text!r:.60} describes no channels")
        slices = []
        for tensor, axis, start, step, block, stride, makes in rows:
            shape = layout.tensors[tensor].shape if 0 <= tensor < len(layout.tensors) else ()
            limit = shape[axis] if 0 <= axis < len(shape) else 0
            last = start + step * (size - 1) + stride * (block - 1)
            if start < 0 or step < 1 or stride < 1 or not 1 <= block <= limit or last >= limit:
                raise LayoutError(f"channels that are told as {text!r:.60} are not in this model")
            slices.append(
                ChannelSlice(
                    tensor=tensor,
                    axis=axis,
                    start=start,
                    step=step,
                    block=block,
                    stride=stride,
                    makes=makes == 1,
                )
            )
        return cls(size=size, slices=tuple(slices))

    def live(self, keep: NDArray[np.bool_], *, layout: Layout) -> NDArray[np.bool_]:
        """Return which parameters stay when the channels that are not in `keep`, ``(size,)``, go."""
        flat = np.ones(layout.num_parameters, np.bool_)
        for piece in self.slices:
            part = np.moveaxis(_part(flat, layout, piece.tensor), piece.axis, 0)
            part[piece.indices(self.size)[~keep].reshape(-1)] = False
        return flat

    def there(
        self, live: NDArray[np.bool_], *, layout: Layout, protect: Collection[str] = ()
    ) -> NDArray[np.bool_]:
        """Return which channels have a live weight among those that make them and can be pruned, ``(size,)``.

        All are there where no tensor that makes them can be pruned.
        """
        found = np.zeros(self.size, np.bool_)
        makers = [s for s in self.slices if s.makes and _can_go(layout, s.tensor, protect=protect)]
        for piece in makers:
            rows = np.moveaxis(_part(live, layout, piece.tensor), piece.axis, 0)
            picked = rows[piece.indices(self.size).reshape(-1)].reshape(self.size, -1)
            found |= picked.any(axis=1)
        return found if makers else np.ones(self.size, np.bool_)

    def is_prunable(self, layout: Layout, *, protect: Collection[str] = ()) -> bool:
        """Return whether a mask can take one of these channels."""
        return any(s.makes and _can_go(layout, s.tensor, protect=protect) for s in self.slices)

    def sizes(self, flat: NDArray[np.float32], *, layout: Layout) -> NDArray[np.float32]:
        """Return the sum of ``|w|`` of what makes each channel (Li 2017), float32, ``(size,)``."""
        total = np.zeros(self.size, np.float64)
        for piece in self.slices:
            if piece.makes:
                rows = np.moveaxis(_part(flat, layout, piece.tensor), piece.axis, 0)
                picked = rows[piece.indices(self.size).reshape(-1)].reshape(self.size, -1)
                # One by one, in this order on every machine.
                total += np.cumsum(np.abs(picked).astype(np.float64), axis=1)[:, -1]
        return total.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WidthTier:
    """A model cut down to the first channels of each set.

    Attributes
    ----------
    mask : Mask
        Of a smaller layout: the tensors as they are in the small model, under the shared mask.
    positions : ndarray, int64, shape (mask.num_live,)
        Where the small model's live entries are in the whole flat vector.
    covered : ndarray, bool, shape (num_parameters,)
        What of the whole model the small one has, pruned entries included.
    """

    mask: Mask
    positions: NDArray[np.int64]
    covered: NDArray[np.bool_]


def width_tier(sets: Sequence[ChannelSet], *, mask: Mask, share: float) -> WidthTier:
    """Cut a model down to the first ``ceil(share * size)`` channels of each set.

    Tiers of smaller shares lie inside those of larger ones. Inputs and outputs of the model are in no set and
    stay whole.

    Parameters
    ----------
    sets : sequence of ChannelSet
    mask : Mask
        The shared mask.
    share : float
        In (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    layout = mask.layout
    kept = [[np.ones(length, np.bool_) for length in spec.shape] for spec in layout.tensors]
    for group in sets:
        count = math.ceil(share * group.size - 1e-9)
        for piece in group.slices:
            kept[piece.tensor][piece.axis][piece.indices(group.size)[count:].reshape(-1)] = False
    covered, tensors = [], []
    for spec, axes in zip(layout.tensors, kept, strict=True):
        whole = np.ones(spec.shape, np.bool_)
        for axis, stays in enumerate(axes):
            whole &= stays.reshape([-1 if other == axis else 1 for other in range(len(axes))])
        covered.append(whole.reshape(-1))
        tensors.append(replace(spec, shape=tuple(int(np.count_nonzero(stays)) for stays in axes)))
    inside = np.concatenate(covered) if covered else np.zeros(0, np.bool_)
    small = Mask(layout=Layout(tensors=tuple(tensors)), live=mask.live[inside])
    positions = np.flatnonzero(inside & mask.live).astype(np.int64, copy=False)
    return WidthTier(mask=small, positions=positions, covered=inside)


def _part(flat: NDArray[np.generic], layout: Layout, tensor: int) -> NDArray[np.generic]:
    start, spec = layout.offsets[tensor], layout.tensors[tensor]
    return flat[start : start + spec.size].reshape(spec.shape)


def _can_go(layout: Layout, tensor: int, *, protect: Collection[str]) -> bool:
    spec = layout.tensors[tensor]
    return spec.prunable and spec.name not in protect
