"""How operators that work on each value, or sum up over an axis, carry channels along."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hedgerow_export.rules_layers import freeze_all
from hedgerow_export.static_shapes import attributes
from hedgerow_export.tracing import Tracer, label

if TYPE_CHECKING:
    import onnx


def elementwise(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Unite the channels of operands that meet, with broadcasting."""
    names = [name for name in node.input if name]
    held = {name: tracer.channels[name] for name in names if name in tracer.channels}
    if not held:
        for name in names:
            tracer.freeze_value(name, "")
        return
    if any(name not in tracer.dims for name in names):
        freeze_all(tracer, node, f"{label(node)} has operands of unknown shape")
        return
    rank = max(len(tracer.dims[name]) for name in names)
    lifted = {name: rank - len(tracer.dims[name]) for name in names}
    axes = {entry.axis + lifted[name] for name, entry in held.items() if len(entry.atoms) > 1}
    if len(axes) > 1:
        freeze_all(tracer, node, f"{label(node)} joins channels of different axes")
        return
    axis = axes.pop() if axes else next(entry.axis + lifted[name] for name, entry in held.items())
    sizes = {name: _size(tracer, name, axis - lifted[name]) for name in names}
    full = max(sizes.values())
    atoms = next((held[name].atoms for name in held if len(held[name].atoms) == full), None)
    if atoms is None:
        freeze_all(tracer, node, f"{label(node)} spreads one channel over several")
        return
    for name in names:
        _join(tracer, node, name, axis - lifted[name], sizes[name] == full)
        if name in held and len(held[name].atoms) == full:
            tracer.unite(atoms, held[name].atoms)
        elif name in tracer.views and sizes[name] == full and full > 1:
            tracer.use_weight(name, {axis - lifted[name]: (atoms, "along")})
    if full == 1:
        tracer.freeze(atoms, "")
    tracer.put(node.output[0], axis, atoms)


def pooling(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels on axis 1 through; a window over channels mixes them."""
    _unless(tracer, node, lambda axis, _: axis != 1)


def reduction(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through a sum over other axes."""
    name = node.input[0]
    if name in tracer.views:
        freeze_all(tracer, node, f"{label(node)} sums over a weight")
        return
    held = tracer.channels.get(name)
    if held is None:
        return
    rank = len(tracer.dims[name])
    given = attributes(node)
    if node.op_type in ("ArgMax", "ArgMin"):
        axes: list[int] | None = [int(str(given.get("axis", 0))) % rank]
    else:
        axes = tracer.axes(node, rank)
        if axes == [] and not given.get("noop_with_empty_axes", 0):
            axes = list(range(rank))
    if axes is None or held.axis in axes:
        tracer.freeze(held.atoms, f"{label(node)} mixes the channels")
        return
    gone = 0 if given.get("keepdims", 1) else sum(axis < held.axis for axis in axes)
    tracer.put(node.output[0], held.axis - gone, held.atoms)


def along_axis(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through a softmax over another axis."""
    given = attributes(node)
    default = 1 if node.op_type == "LpNormalization" else -1
    _unless(tracer, node, lambda axis, rank: axis == int(str(given.get("axis", default))) % rank)


def global_pooling(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels on axis 1 through."""
    pooling(tracer, node)


def expand(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through where their own axis keeps its size."""
    name, output = node.input[0], node.output[0]
    if name in tracer.views:
        freeze_all(tracer, node, "")
        return
    held = tracer.channels.get(name)
    if held is None:
        return
    before, after = tracer.dims.get(name), tracer.dims.get(output)
    known = before is not None and after is not None and node.input[1] in tracer.values
    axis = held.axis + len(after) - len(before) if before is not None and after is not None else 0
    if not known or after is None or after[axis] != len(held.atoms):
        tracer.freeze(held.atoms, f"{label(node)} repeats the channels, or by computed sizes")
    else:
        tracer.put(output, axis, held.atoms)


def tile(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through where their own axis is not repeated."""
    held = tracer.channels.get(node.input[0])
    repeats = tracer.ints(node.input[1])
    if held is None:
        freeze_all(tracer, node, "")
    elif repeats is None or repeats[held.axis] != 1:
        tracer.freeze(held.atoms, f"{label(node)} repeats the channels")
    else:
        tracer.put(node.output[0], held.axis, held.atoms)


def _unless(tracer: Tracer, node: onnx.NodeProto, mixes: Callable[[int, int], bool]) -> None:
    held = tracer.channels.get(node.input[0])
    if held is None:
        freeze_all(tracer, node, "")
    elif mixes(held.axis, len(tracer.dims.get(node.input[0], (0, 0)))):
        tracer.freeze(held.atoms, f"{label(node)} mixes the channels")
    else:
        tracer.put(node.output[0], held.axis, held.atoms)


def _size(tracer: Tracer, name: str, axis: int) -> int:
    """Return the size of a value along an axis; 1 where broadcasting puts the axis in."""
    return tracer.dims[name][axis] if axis >= 0 else 1


def _join(tracer: Tracer, node: onnx.NodeProto, name: str, axis: int, full: bool) -> None:
    """Freeze what cannot follow the channels of the other operands."""
    size = _size(tracer, name, axis)
    held = tracer.channels.get(name)
    if held is not None and not full:
        tracer.freeze(held.atoms, "")
    elif name in tracer.views and (size == 1 or not full):
        tracer.freeze_value(name, "")
    elif held is None and name not in tracer.views and size > 1:
        for other in node.input:
            if other in tracer.channels:
                tracer.freeze(
                    tracer.channels[other].atoms,
                    f"{label(node)} joins them with {name!r}, whose channels are not known",
                )
