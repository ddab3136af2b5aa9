"""Which channels of a graph depend on each other: the state that the rules of the operators work on.

Every index along a channel axis is an *atom*, an integer. Atoms that can only be removed together are united
(union-find); atoms that cannot be removed are frozen, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.metadata import read_layout
from hedgerow_export.static_shapes import Dims, Values, attributes, constants, infer_dims, read_names

if TYPE_CHECKING:
    import onnx

Atoms = NDArray[np.int64]
Role = Literal["out", "in", "along"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The channel axis of a value: one atom for each index along it."""

    axis: int
    atoms: Atoms


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A weight, seen through transposes and inserted axes: for each axis the tensor's own one, or None."""

    tensor: str
    axes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Woven:
    """A value cut and joined out of weights: for each axis its atoms, and the weights' axes behind them.

    An axis of size 1 that was put in has no atoms.
    """

    atoms: tuple[Atoms | None, ...]
    keys: tuple[frozenset[tuple[str, int]], ...]


class Tracer:
    """What is known so far about the channels of a graph.

    Attributes
    ----------
    dims : dict[str, tuple[int, ...]]
        Shapes of the values, with a batch of `static_shapes.BATCH`.
    values : dict[str, ndarray]
        Small integer constants.
    channels : dict[str, Channels]
        The channel axis of every value that is no weight. A value without an entry has none.
    weights : dict[tuple[str, int], Atoms]
        Atoms of the axes of weights, as far as some node uses them.
    roles : dict[tuple[str, int], str]
        ``out``: rows that make a channel; ``in``: columns that read one; ``along``: one value or block for
        each channel, such as a bias or a depthwise filter.
    woven : dict[str, Woven]
        What is cut and joined out of weights, for recurrent layers.
    cut : frozenset[tuple[str, int]]
        The weights' axes behind those.
    coupled : list[ndarray]
        Atoms of such weights that a recurrent layer reads.
    makers : dict[str, onnx.NodeProto]
        The node that makes a value.
    zeros : set[str]
        Weights that are zero throughout and belong to no layout.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.dims: Dims = infer_dims(model)
        self.values: Values = constants(graph)
        self.channels: dict[str, Channels] = {}
        self.weights: dict[tuple[str, int], Atoms] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self.views: dict[str, View] = {
            tensor.name: View(tensor=tensor.name, axes=tuple(range(len(tensor.dims))))
            for tensor in graph.initializer
            if tensor.name not in self.values
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in read_names(node):
                self.readers.setdefault(name, []).append(node)
        self.woven: dict[str, Woven] = {}
        self.cut: frozenset[tuple[str, int]] = frozenset()
        self.coupled: list[Atoms] = []
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.zeros = _zeros(model)
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    # Atoms

    def fresh(self, count: int) -> Atoms:
        """Return new atoms."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, atom: int) -> int:
        """Return the atom that stands for all that are united with this one."""
        parents = self._parents
        while parents[atom] != atom:
            parents[atom] = parents[parents[atom]]
            atom = parents[atom]
        return atom

    def roots(self, atoms: Atoms) -> Atoms:
        """Return the root of each atom."""
        return np.array([self.root(int(atom)) for atom in atoms.reshape(-1)], np.int64).reshape(atoms.shape)

    def unite(self, first: Atoms, second: Atoms) -> None:
        """Unite two equally long runs of atoms, one by one."""
        for one, two in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True):
            kept, gone = sorted((self.root(one), self.root(two)))
            if kept == gone:
                continue
            self._parents[gone] = kept
            reason = self._reasons.pop(gone, None)
            if reason and not self._reasons.get(kept):
                self._reasons[kept] = reason
            elif reason is not None:
                self._reasons.setdefault(kept, reason)

    def freeze(self, atoms: Atoms, reason: str) -> None:
        """Keep atoms for good; an empty reason means that they are no channels."""
        for atom in atoms.reshape(-1).tolist():
            root = self.root(atom)
            if not self._reasons.get(root):
                self._reasons[root] = reason

    def reason(self, atom: int) -> str | None:
        """Return why an atom is frozen; None when it is not."""
        return self._reasons.get(self.root(atom))

    # Values

    def put(self, name: str, axis: int, atoms: Atoms) -> None:
        """Set the channel axis of a value; without a known shape its channels are frozen."""
        dims = self.dims.get(name)
        if dims is None or axis >= len(dims) or dims[axis] != len(atoms):
            self.freeze(atoms, f"the shape of {name!r} is not known")
        else:
            self.channels[name] = Channels(axis=axis, atoms=atoms)

    def freeze_value(self, name: str, reason: str) -> None:
        """Freeze the channels of a value, or all axes of a weight."""
        if name in self.channels:
            self.freeze(self.channels[name].atoms, reason)
        view = self.views.get(name)
        for axis in range(len(view.axes) if view else 0):
            atoms = self.weight_axis(name, axis)
            if atoms is not None:
                self.freeze(atoms, reason)
        for atoms in self.woven[name].atoms if name in self.woven else ():
            if atoms is not None:
                self.freeze(atoms, reason)

    # Weights

    def weight_axis(self, name: str, axis: int, role: Role | None = None) -> Atoms | None:
        """Return the atoms of an axis of a weight; None for an axis of size 1 that the view has put in."""
        view = self.views[name]
        own = view.axes[axis]
        if own is None:
            return None
        key = (view.tensor, own)
        if key not in self.weights:
            self.weights[key] = self.fresh(self.dims[view.tensor][own])
        if role is not None:
            self.roles.setdefault(key, role)
        return self.weights[key]

    def woven_of(self, name: str) -> Woven | None:
        """Return a weight, a view, or a woven one, with the atoms of its axes; None for anything else."""
        if name in self.woven:
            return self.woven[name]
        view = self.views.get(name)
        if view is None:
            return None
        atoms = tuple(self.weight_axis(name, axis) for axis in range(len(view.axes)))
        keys = tuple(frozenset() if own is None else frozenset(((view.tensor, own),)) for own in view.axes)
        return Woven(atoms=atoms, keys=keys)

    def use_weight(self, name: str, uses: Mapping[int, tuple[Atoms, Role]]) -> None:
        """Unite axes of a weight with atoms; the other axes are no channels here."""
        count = len(self.views[name].axes)
        wanted = {axis % count: use for axis, use in uses.items()}
        for axis in range(count):
            atoms = self.weight_axis(name, axis, wanted[axis][1] if axis in wanted else None)
            if atoms is None:
                continue
            if axis in wanted and len(atoms) == len(wanted[axis][0]):
                self.unite(atoms, wanted[axis][0])
            else:
                self.freeze(atoms, "")
                if axis in wanted:
                    self.freeze(wanted[axis][0], f"tensor {name!r} has another size along them")

    # Constants

    def ints(self, name: str) -> list[int] | None:
        """Return a constant as a list of integers; None when it is not known."""
        value = self.values.get(name)
        return None if value is None else [int(entry) for entry in value.reshape(-1)]

    def axes(self, node: onnx.NodeProto, rank: int, position: int = 1) -> list[int] | None:
        """Return the axes that a node names, by an input or an attribute, counted from the front.

        Without any, the list is empty; None when they are not known.
        """
        given: Sequence[int] | None
        if len(node.input) > position and node.input[position]:
            given = self.ints(node.input[position])
        else:
            listed = attributes(node).get("axes", [])
            given = [int(axis) for axis in listed] if isinstance(listed, list) else None
        return None if given is None else [axis % rank for axis in given]


def _zeros(model: onnx.ModelProto) -> set[str]:
    from onnx import TensorProto, numpy_helper

    layout = read_layout(model)
    named = set() if layout is None else {spec.name for spec in layout.tensors}
    return {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and tensor.name not in named
        and not numpy_helper.to_array(tensor).any()
    }


def label(node: onnx.NodeProto) -> str:
    """Return what to call a node in a reason: its operator and its first output."""
    return f"{node.op_type} ({node.output[0] if node.output else node.name})"
