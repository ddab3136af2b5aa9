"""How a reshape carries channels into merged and split axes: flattening, heads, shuffled groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hedgerow_export.rules_layers import freeze_all
from hedgerow_export.static_shapes import attributes
from hedgerow_export.tracing import Atoms, Channels, Tracer, View, label

if TYPE_CHECKING:
    import onnx

# What lies between a reshape into heads and their product, or between one into groups and their norm.
_BETWEEN = "Transpose Slice Squeeze Unsqueeze Split Gather Mul Div Reshape Identity Cast"


def reshape(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Follow channels into merged and split axes; of a split axis one part is removed in one go."""
    name, output = node.input[0], node.output[0]
    before, after = tracer.dims.get(name), tracer.dims.get(output)
    if name in tracer.views:
        _view(tracer, node, before, after)
        return
    held = tracer.channels.get(name)
    if held is None:
        return
    if before is None or after is None or math.prod(before) != math.prod(after) or 0 in before:
        tracer.freeze(held.atoms, f"{label(node)} gives a shape that depends on more than the batch")
        return
    if node.op_type == "Reshape" and node.input[1] not in tracer.values:
        tracer.freeze(held.atoms, f"{label(node)} takes its shape from computed sizes")
        return
    found = _follow(tracer, node, held, before, after)
    if found is None:
        tracer.freeze(held.atoms, f"{label(node)} spreads the channels over several axes")
    else:
        tracer.put(output, found.axis, found.atoms)


def _view(
    tracer: Tracer, node: onnx.NodeProto, before: tuple[int, ...] | None, after: tuple[int, ...] | None
) -> None:
    """See a reshaped weight as a view where only axes of size 1 come or go."""
    own = tracer.views[node.input[0]]
    if before is None or after is None or [s for s in before if s > 1] != [s for s in after if s > 1]:
        freeze_all(tracer, node, f"{label(node)} reshapes a weight")
        return
    real = iter([axis for axis, size in zip(own.axes, before, strict=True) if size > 1])
    axes = tuple(next(real) if size > 1 else None for size in after)
    for axis, size in enumerate(before):
        if size == 1 and own.axes[axis] is not None:
            atoms = tracer.weight_axis(node.input[0], axis)
            assert atoms is not None
            tracer.freeze(atoms, "")
    tracer.views[node.output[0]] = View(tensor=own.tensor, axes=axes)


def _follow(
    tracer: Tracer, node: onnx.NodeProto, held: Channels, before: tuple[int, ...], after: tuple[int, ...]
) -> Channels | None:
    """Return the channel axis after a reshape, after uniting what can only be removed together."""
    for old, new in _segments(before, after):
        if held.axis not in old:
            continue
        sizes = [before[axis] for axis in old]
        spread = [size if axis == held.axis else 1 for axis, size in zip(old, sizes, strict=True)]
        atoms = np.broadcast_to(held.atoms.reshape(spread), sizes).reshape([after[axis] for axis in new])
        varying = [place for place in range(len(new)) if _varies(tracer, atoms, place)]
        if not varying:
            return None
        axes = [new[place] for place in varying]
        chosen = varying[axes.index(_preferred(tracer, node, axes, after))]
        rows = np.moveaxis(atoms, chosen, 0).reshape(atoms.shape[chosen], -1)
        if len(varying) > 1:
            for row in rows:
                tracer.unite(row[:1].repeat(len(row)), row)
        return Channels(axis=new[chosen], atoms=np.ascontiguousarray(rows[:, 0]))
    return None


def _varies(tracer: Tracer, atoms: Atoms, place: int) -> bool:
    rows = tracer.roots(np.moveaxis(atoms, place, 0).reshape(atoms.shape[place], -1))
    return bool((rows != rows[:1]).any())


def _preferred(tracer: Tracer, node: onnx.NodeProto, axes: list[int], dims: tuple[int, ...]) -> int:
    """Return the axis whose indices are to be removed: heads, groups of a norm, else the one with most."""
    if len(axes) == 1:
        return axes[0]
    goal = _leads_to(tracer, node.output[0])
    # An axis that queries, keys and values are picked from cannot shrink.
    whole = [axis for axis in axes if not _is_picked_from(tracer, node.output[0], axis)] or axes
    inner = [axis for axis in whole if axis != len(dims) - 1]
    if goal == "MatMul" and inner:
        return inner[-1]
    if goal == "InstanceNormalization" and 1 in whole:
        return 1
    return max(whole, key=lambda axis: dims[axis])


def _is_picked_from(tracer: Tracer, name: str, axis: int) -> bool:
    """Tell whether parts of an axis go different ways, before anything else is done with the value."""
    for node in tracer.readers.get(name, []):
        rank = len(tracer.dims[name])
        if node.op_type in ("Gather", "Split"):
            if int(str(attributes(node).get("axis", 0))) % rank == axis:
                return True
        elif node.op_type == "Slice":
            if axis in (tracer.axes(node, rank, position=3) or range(rank)):
                return True
        elif node.op_type == "Transpose" and node.output[0] in tracer.dims:
            listed = attributes(node).get("perm")
            if isinstance(listed, list) and _is_picked_from(tracer, node.output[0], listed.index(axis)):
                return True
        elif node.op_type == "Unsqueeze" and node.output[0] in tracer.dims:
            stay = set(range(rank + 1)) - set(tracer.axes(node, rank + 1) or [0])
            if len(stay) == rank and _is_picked_from(tracer, node.output[0], sorted(stay)[axis]):
                return True
        elif node.op_type == "Squeeze" and node.output[0] in tracer.dims:
            stay = set(range(rank)) - set(tracer.axes(node, rank) or [])
            if axis in stay and _is_picked_from(tracer, node.output[0], sorted(stay).index(axis)):
                return True
    return False


def _leads_to(tracer: Tracer, name: str) -> str | None:
    """Return whether a value goes into a product of two activations or a norm before anything else."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop(0)
        for node in tracer.readers.get(current, []):
            weighted = any(entry in tracer.views for entry in node.input)
            if node.op_type == "InstanceNormalization" or (node.op_type == "MatMul" and not weighted):
                return str(node.op_type)
            if node.op_type in _BETWEEN.split() and node.output[0] not in seen:
                seen.update(node.output)
                waiting.extend(node.output)
    return None


def _segments(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of two shapes of one size into the shortest runs with equal products."""
    pairs = []
    old, new = 0, 0
    while old < len(before) or new < len(after):
        left, right = [], []
        one = two = 1
        while True:
            if one <= two and old < len(before):
                one *= before[old]
                left.append(old)
                old += 1
            elif new < len(after):
                two *= after[new]
                right.append(new)
                new += 1
            else:
                break
            if one == two and left and right:
                break
        # Axes of size 1 at the end of a run belong to it.
        pairs.append((left, right))
    return pairs
