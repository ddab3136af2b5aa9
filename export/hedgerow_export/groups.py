"""Which channels of a model can be removed, and which slices of which tensors go with each of them.

Found from the ONNX graph alone (Fang et al., "DepGraph", 2023, describe the idea for autograd graphs).
Removing channel ``j`` of a group means removing row ``j`` of every member's indices; the rest of the model
is then still right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout
from hedgerow_export.channel_rules import trace
from hedgerow_export.errors import ChannelError
from hedgerow_export.filling import find_tensors
from hedgerow_export.metadata import read_layout
from hedgerow_export.model_proto import parse_model
from hedgerow_export.static_shapes import fold_shapes
from hedgerow_export.tracing import Role, Tracer
from hedgerow_export.verification import check_form

if TYPE_CHECKING:
    import onnx

Keep = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """The slices of one tensor that belong to the channels of a group.

    Attributes
    ----------
    tensor : str
    axis : int
    indices : ndarray, int64, shape (size, block)
        Row ``j`` holds the indices along `axis` that go with channel ``j``. A flattened channel has a block
        of height times width, a head one of its width.
    role : str
        ``out``: rows that make the channel; ``in``: columns that read it; ``along``: what belongs to the
        channel itself, such as its bias, its norm's scale or its depthwise filter.
    """

    tensor: str
    axis: int
    indices: NDArray[np.int64] = field(repr=False)
    role: Role

    @property
    def block(self) -> int:
        """Indices for each channel."""
        return int(self.indices.shape[1])

    def rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor's values by channel, shape ``(size, values for each channel)``; a copy."""
        picked = np.moveaxis(array, self.axis, 0)[self.indices.reshape(-1)]
        return picked.reshape(len(self.indices), -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelGroup:
    """Channels of one kind: the same tensors hold them, each can be removed without the others.

    Attributes
    ----------
    id : str
        The tensor that makes them, with ``:1``, ``:2`` ... where it makes several groups. The same template
        gives the same ids.
    size : int
        Number of channels, at least 2. At least one must be kept.
    members : tuple[Member, ...]
        In the graph's order.
    """

    id: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenChannels:
    """Channels that cannot be removed.

    Attributes
    ----------
    tensor : str
    axis : int
    count : int
        How many of the indices along the axis.
    reason : str
        Names the operator and the value at fault, the model's input or its output.
    """

    tensor: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroups:
    """What `channel_groups` found.

    Attributes
    ----------
    groups : tuple[ChannelGroup, ...]
    frozen : tuple[FrozenChannels, ...]
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenChannels, ...]

    def __iter__(self) -> Any:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: str) -> ChannelGroup:
        found = next((group for group in self.groups if group.id == key), None)
        if found is None:
            raise ChannelError(f"there is no channel group {key!r} in this model", group=key)
        return found

    def check(self, keep: Keep) -> None:
        """Check masks: groups that are there, bool of the right shape, at least one channel kept.

        Raises
        ------
        ChannelError
            Names the group.
        """
        for key, mask in keep.items():
            group = self[key]
            if mask.dtype != np.bool_ or mask.shape != (group.size,):
                raise ChannelError(
                    f"the mask of channel group {key!r} must be bool of shape ({group.size},), "
                    f"got {mask.dtype} of shape {mask.shape}",
                    group=key,
                )
            if not mask.any():
                raise ChannelError(f"channel group {key!r} must keep at least one channel", group=key)

    def live(self, layout: Layout, keep: Keep) -> NDArray[np.bool_]:
        """Return which parameters stay when channels go, shape ``(num_parameters,)``.

        Parameters
        ----------
        layout : Layout
            The template's.
        keep : Mapping[str, ndarray]
            For a group's id, bool of shape ``(size,)``: True where a channel is kept. A group that is not
            named keeps all.

        Raises
        ------
        ChannelError
            As `check`.
        """
        self.check(keep)
        flat = np.ones(layout.num_parameters, np.bool_)
        parts = {
            tensor.name: flat[start : start + tensor.size].reshape(tensor.shape)
            for tensor, start in zip(layout.tensors, layout.offsets, strict=False)
        }
        for key, mask in keep.items():
            for member in self[key].members:
                part = np.moveaxis(parts[member.tensor], member.axis, 0)
                part[member.indices[~mask].reshape(-1)] = False
        return flat


def channel_groups(model: bytes | onnx.ModelProto) -> ChannelGroups:
    """Find the channels of a model that can be removed.

    Parameters
    ----------
    model : bytes or onnx.ModelProto
        A template, a model, or a foreign one. Only its graph counts, not its weights' values.

    Returns
    -------
    ChannelGroups
        Members are tensors of the layout where there is one, else all weights. Whatever the graph does that
        is not understood freezes the channels it touches, and is named among `frozen`.

    Raises
    ------
    ModelError
        Bytes that are no model.
    """
    proto = open_graph(model) if isinstance(model, bytes) else model
    return group_channels(trace(fold_shapes(proto)), read_layout(proto))


def open_graph(model: bytes) -> onnx.ModelProto:
    """Parse a model and check its form, so that the rules meet well-formed nodes only.

    Raises
    ------
    ModelError
        The bytes are no model, or its graph breaks the rules of ONNX.
    TemplateError
        A tensor of its layout is missing.
    """
    proto = parse_model(model)
    check_form(proto)
    layout = read_layout(proto)
    if layout is not None:
        find_tensors(proto, layout)
    return proto


def group_channels(tracer: Tracer, layout: Layout | None) -> ChannelGroups:
    """Return the groups in a graph that was traced, with members out of a layout where there is one."""
    named = None if layout is None else {spec.name for spec in layout.tensors}
    places = _places(tracer)
    units = {atom: held for atom, held in places.items() if tracer.reason(atom) is None}
    alike: dict[frozenset[tuple[tuple[str, int], int]], list[int]] = {}
    for atom, held in units.items():
        alike.setdefault(frozenset((key, len(indices)) for key, indices in held.items()), []).append(atom)
    groups, frozen = [], _frozen(tracer)
    counts: dict[str, int] = {}
    for atoms in alike.values():
        members = tuple(_members(tracer, [units[atom] for atom in atoms], named))
        if not members:
            continue
        maker = next((entry for entry in members if entry.role == "out"), members[0])
        if len(atoms) < 2:
            reason = "its channels can only be removed all together"
            count = members[0].block
            frozen.append(FrozenChannels(tensor=maker.tensor, axis=maker.axis, count=count, reason=reason))
            continue
        number = counts.get(maker.tensor, 0)
        counts[maker.tensor] = number + 1
        key = f"{maker.tensor}:{number}" if number else maker.tensor
        groups.append(ChannelGroup(id=key, size=len(atoms), members=members))
    return ChannelGroups(groups=tuple(groups), frozen=tuple(frozen))


def _places(tracer: Tracer) -> dict[int, dict[tuple[str, int], list[int]]]:
    """Return for every set of united atoms where they lie: (tensor, axis) to indices."""
    places: dict[int, dict[tuple[str, int], list[int]]] = {}
    for key, atoms in tracer.weights.items():
        for index, root in enumerate(tracer.roots(atoms).tolist()):
            places.setdefault(root, {}).setdefault(key, []).append(index)
    return places


def _members(
    tracer: Tracer, units: list[dict[tuple[str, int], list[int]]], named: set[str] | None
) -> Iterable[Member]:
    for key in units[0]:
        tensor, axis = key
        if named is None or tensor in named:
            indices = np.array([unit[key] for unit in units], np.int64)
            indices.flags.writeable = False
            yield Member(tensor=tensor, axis=axis, indices=indices, role=tracer.roles.get(key, "along"))


def _frozen(tracer: Tracer) -> list[FrozenChannels]:
    found: dict[tuple[str, int, str], int] = {}
    for (tensor, axis), atoms in tracer.weights.items():
        for atom in atoms.tolist():
            reason = tracer.reason(atom)
            if reason:
                found[tensor, axis, reason] = found.get((tensor, axis, reason), 0) + 1
    return [
        FrozenChannels(tensor=tensor, axis=axis, count=count, reason=reason)
        for (tensor, axis, reason), count in found.items()
    ]
