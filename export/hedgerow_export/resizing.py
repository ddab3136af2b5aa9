"""Sizes that stand in a graph, made to fit fewer channels: targets of reshapes, parts, bounds, groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.rules_recurrent import cut_bounds
from hedgerow_export.static_shapes import attributes, unused
from hedgerow_export.tracing import Atoms, Channels, Tracer

if TYPE_CHECKING:
    import onnx


class Resizing:
    """Which atoms go, and the constants that this makes necessary.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed by `add_constants`.
    tracer : Tracer
        Of this model.
    removed : frozenset[int]
        Roots of the atoms that go.
    """

    def __init__(self, model: onnx.ModelProto, tracer: Tracer, removed: frozenset[int]) -> None:
        self.tracer = tracer
        self._model = model
        self._removed = removed
        self._made: dict[str, NDArray[np.int64]] = {}
        self._taken = {tensor.name for tensor in model.graph.initializer}
        self._taken |= {name for node in model.graph.node for name in node.output}

    def kept(self, atoms: Atoms) -> NDArray[np.bool_]:
        """Return which atoms stay."""
        return np.array([root not in self._removed for root in self.tracer.roots(atoms).tolist()], np.bool_)

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return the new shape of a value."""
        before = self.tracer.dims.get(name)
        if before is None:
            return None
        sizes = list(before)
        held = self.tracer.channels.get(name)
        if held is not None:
            sizes[held.axis] = int(self.kept(held.atoms).sum())
        view = self.tracer.views.get(name)
        for axis, own in enumerate(view.axes if view else ()):
            key = (view.tensor, own) if view and own is not None else None
            if key in self.tracer.weights:
                sizes[axis] = int(self.kept(self.tracer.weights[key]).sum())
        return tuple(sizes)

    def constant(self, name: str, values: list[int] | NDArray[np.int64]) -> str:
        """Return the name of a new constant."""
        own = unused(name, self._taken)
        self._made[own] = np.asarray(values, np.int64)
        return own

    def add_constants(self) -> None:
        """Put the new constants into the model, and take out those that nothing reads any more."""
        from onnx import numpy_helper

        from hedgerow_export.static_shapes import remove_unread

        graph = self._model.graph
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self._made.items())
        remove_unread(self._model)


def resize_node(resizing: Resizing, node: onnx.NodeProto) -> None:
    """Make the sizes in one node fit."""
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is not None:
        rule(resizing, node)


def _convolution(resizing: Resizing, node: onnx.NodeProto) -> None:
    weight, inputs = resizing.dims(node.input[1]), resizing.dims(node.input[0])
    if weight is None or inputs is None or min(len(weight), len(inputs)) < 2:
        return
    for attribute in node.attribute:
        if attribute.name == "group" and attribute.i > 1:
            attribute.i = inputs[1] // weight[1]


def _reshape(resizing: Resizing, node: onnx.NodeProto) -> None:
    target = resizing.tracer.ints(node.input[1])
    before, after = resizing.tracer.dims.get(node.output[0]), resizing.dims(node.output[0])
    if target is None or before is None or after is None or before == after:
        return
    sizes = [size if size == -1 else new for size, new in zip(target, after, strict=True)]
    node.input[1] = resizing.constant(f"{node.output[0]}_target", sizes)


def _expand(resizing: Resizing, node: onnx.NodeProto) -> None:
    held, after = resizing.tracer.channels.get(node.output[0]), resizing.dims(node.output[0])
    target = resizing.tracer.ints(node.input[1])
    if held is None or after is None or target is None or resizing.kept(held.atoms).all():
        return
    place = held.axis - (len(after) - len(target))
    if place >= 0:
        target[place] = after[held.axis]
        node.input[1] = resizing.constant(f"{node.output[0]}_target", target)


def _split(resizing: Resizing, node: onnx.NodeProto) -> None:
    held = _cut(resizing, node, int(str(attributes(node).get("axis", 0))))
    if held is None:
        return
    sizes = [int(resizing.kept(resizing.tracer.channels[name].atoms).sum()) for name in node.output]
    for attribute in [entry for entry in node.attribute if entry.name == "num_outputs"]:
        node.attribute.remove(attribute)
    del node.input[1:]
    node.input.append(resizing.constant(f"{node.output[0]}_sizes", sizes))


def _recurrent(resizing: Resizing, node: onnx.NodeProto) -> None:
    again = resizing.tracer.woven_of(node.input[2])
    hidden = None if again is None or len(again.atoms) != 3 else again.atoms[2]
    if hidden is None or resizing.kept(hidden).all():
        return
    for attribute in node.attribute:
        if attribute.name == "hidden_size":
            attribute.i = int(resizing.kept(hidden).sum())
    for place in range(5, min(7, len(node.input))):
        node.input[place] = ""  # zeros, of which there are fewer now; without them a layer begins with zeros


def _woven_slice(resizing: Resizing, node: onnx.NodeProto) -> None:
    part = resizing.tracer.woven_of(node.input[0])
    bounds = None if part is None else cut_bounds(resizing.tracer, node, len(part.atoms))
    if part is None or bounds is None:
        return
    starts, ends = [], []
    for axis, (first, last) in bounds.items():
        atoms = part.atoms[axis]
        assert atoms is not None
        before = np.concatenate([[0], np.cumsum(resizing.kept(atoms))])
        begin, end, _ = slice(first, last).indices(len(atoms))
        starts.append(int(before[begin]))
        ends.append(int(before[end]))
    node.input[1] = resizing.constant(f"{node.output[0]}_start", starts)
    node.input[2] = resizing.constant(f"{node.output[0]}_end", ends)


def _slice(resizing: Resizing, node: onnx.NodeProto) -> None:
    if node.output[0] in resizing.tracer.woven:
        _woven_slice(resizing, node)
        return
    held = resizing.tracer.channels.get(node.input[0])
    if held is None or resizing.kept(held.atoms).all():
        return
    rank = len(resizing.tracer.dims[node.input[0]])
    axes = resizing.tracer.axes(node, rank, position=3) or list(range(rank))
    starts, ends = (resizing.tracer.ints(name) for name in node.input[1:3])
    if held.axis not in axes or starts is None or ends is None:
        return
    place = axes.index(held.axis)
    first, last, _ = slice(starts[place], ends[place]).indices(len(held.atoms))
    before = np.concatenate([[0], np.cumsum(resizing.kept(held.atoms))])
    starts[place], ends[place] = int(before[first]), int(before[max(first, last)])
    node.input[1] = resizing.constant(f"{node.output[0]}_start", starts)
    node.input[2] = resizing.constant(f"{node.output[0]}_end", ends)


def _gather(resizing: Resizing, node: onnx.NodeProto) -> None:
    held = _cut(resizing, node, int(str(attributes(node).get("axis", 0))))
    picked = resizing.tracer.ints(node.input[1])
    if held is None or picked is None:
        return
    kept = resizing.kept(held.atoms)
    places = np.cumsum(kept) - 1
    stay = [int(places[index]) for index in picked if kept[index]]
    node.input[1] = resizing.constant(f"{node.output[0]}_indices", stay)


def _cut(resizing: Resizing, node: onnx.NodeProto, axis: int) -> Channels | None:
    """Return the channels of a node's input where they lie along `axis` and some go."""
    held = resizing.tracer.channels.get(node.input[0])
    if held is None or resizing.kept(held.atoms).all():
        return None
    rank = len(resizing.tracer.dims[node.input[0]])
    return held if axis % rank == held.axis else None


_RULES: dict[str, Callable[[Resizing, onnx.NodeProto], None]] = {
    "Conv": _convolution,
    "Expand": _expand,
    "GRU": _recurrent,
    "Gather": _gather,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
}
