"""How operators that only move, join or cut values carry their channels along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hedgerow_export.rules_layers import freeze_all
from hedgerow_export.static_shapes import attributes
from hedgerow_export.tracing import Tracer, View, label

if TYPE_CHECKING:
    import onnx


def transpose(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let the channels move to their new axis."""
    name = node.input[0]
    rank = len(tracer.dims.get(name, ()))
    listed = attributes(node).get("perm")
    order = [int(axis) for axis in listed] if isinstance(listed, list) else list(range(rank))[::-1]
    if name in tracer.views:
        axes = tracer.views[name].axes
        tracer.views[node.output[0]] = View(
            tensor=tracer.views[name].tensor, axes=tuple(axes[axis] for axis in order)
        )
        return
    held = tracer.channels.get(name)
    if held is not None:
        tracer.put(node.output[0], order.index(held.axis), held.atoms)


def inserted_axes(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Count the channel axis anew after axes of size 1 were put in (Unsqueeze) or taken out (Squeeze)."""
    name, output = node.input[0], node.output[0]
    before, after = tracer.dims.get(name), tracer.dims.get(output)
    if before is None or after is None:
        freeze_all(tracer, node, f"{label(node)} has values of unknown shape")
        return
    longer = max(len(before), len(after))
    changed = tracer.axes(node, longer)
    if changed is None or (not changed and len(before) != len(after)):
        changed = [axis for axis, size in enumerate(before) if size == 1]
    stay = [axis for axis in range(longer) if axis not in changed]
    if name in tracer.views:
        axes = tracer.views[name].axes
        moved: tuple[int | None, ...]
        if node.op_type == "Unsqueeze":
            moved = tuple(axes[stay.index(axis)] if axis in stay else None for axis in range(longer))
        else:
            moved = tuple(axes[axis] for axis in stay)
        tracer.views[output] = View(tensor=tracer.views[name].tensor, axes=moved)
        return
    held = tracer.channels.get(name)
    if held is None:
        return
    if node.op_type == "Unsqueeze":
        tracer.put(output, stay[held.axis], held.atoms)
    elif held.axis in stay:
        tracer.put(output, stay.index(held.axis), held.atoms)
    else:
        tracer.freeze(held.atoms, "")  # a single channel


def concat(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Join channels end to end, or unite them where another axis is joined."""
    dims = tracer.dims.get(node.output[0])
    held = [tracer.channels.get(name) for name in node.input]
    axes = {entry.axis for entry in held if entry is not None}
    if dims is None or len(axes) != 1 or any(name not in tracer.dims for name in node.input):
        if axes:
            freeze_all(tracer, node, f"{label(node)} joins values whose channels lie on different axes")
        return
    (axis,) = axes
    joined = int(str(attributes(node)["axis"])) % len(dims)
    runs = []
    for name, entry in zip(node.input, held, strict=True):
        atoms = tracer.fresh(tracer.dims[name][axis]) if entry is None else entry.atoms
        if name in tracer.views:
            tracer.use_weight(name, {axis: (atoms, "along")})
        elif entry is None:
            tracer.freeze(atoms, f"{label(node)} joins {name!r}, whose channels are not known")
        runs.append(atoms)
    if joined == axis:
        tracer.put(node.output[0], axis, np.concatenate(runs))
        return
    for atoms in runs[1:]:
        tracer.unite(runs[0], atoms)
    tracer.put(node.output[0], axis, runs[0])


def split(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Give every part its run of the channels."""
    held = tracer.channels.get(node.input[0])
    if held is None:
        return
    axis = int(str(attributes(node).get("axis", 0))) % len(tracer.dims[node.input[0]])
    start = 0
    for name in node.output:
        if axis != held.axis:
            tracer.put(name, held.axis, held.atoms)
            continue
        if name not in tracer.dims:
            tracer.freeze(held.atoms, f"{label(node)} has parts of unknown size")
            return
        size = tracer.dims[name][axis]
        tracer.put(name, axis, held.atoms[start : start + size])
        start += size


def slice_(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Take a run of the channels."""
    held = tracer.channels.get(node.input[0])
    if held is None:
        return
    rank = len(tracer.dims[node.input[0]])
    bounds = [tracer.ints(name) for name in node.input[1:]]
    axes = tracer.axes(node, rank, position=3) or list(range(rank))
    if any(bound is None for bound in bounds):
        tracer.freeze(held.atoms, f"{label(node)} has bounds that are computed")
    elif held.axis not in axes:
        tracer.put(node.output[0], held.axis, held.atoms)
    else:
        place = axes.index(held.axis)
        starts, ends, steps = bounds[0], bounds[1], bounds[3] if len(bounds) > 3 else None
        assert starts is not None
        assert ends is not None
        if {len(bound) for bound in bounds if bound is not None} != {len(axes)}:
            tracer.freeze(held.atoms, f"{label(node)} has bounds of different lengths")
        elif steps is not None and steps[place] != 1:
            tracer.freeze(held.atoms, f"{label(node)} takes every {steps[place]}th channel")
        else:
            first, last, _ = slice(starts[place], ends[place]).indices(len(held.atoms))
            tracer.put(node.output[0], held.axis, held.atoms[first:last])


def gather(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Pick channels by constant indices, or rows of an embedding."""
    name, index = node.input
    if name not in tracer.dims or index not in tracer.dims:
        freeze_all(tracer, node, f"{label(node)} has values of unknown shape")
        return
    axis = int(str(attributes(node).get("axis", 0))) % len(tracer.dims[name])
    shift = len(tracer.dims[index]) - 1
    if name in tracer.views:
        if axis != 0 or len(tracer.dims[name]) != 2 or index in tracer.views:
            freeze_all(tracer, node, f"{label(node)} picks from a weight")
            return
        columns = tracer.weight_axis(name, 1, "out")
        assert columns is not None
        tracer.use_weight(name, {1: (columns, "out")})
        tracer.put(node.output[0], 1 + shift, columns)
        return
    held = tracer.channels.get(name)
    if index in tracer.channels:
        tracer.freeze_value(index, f"{label(node)} takes them as indices")
    if held is None:
        return
    if axis != held.axis:
        tracer.put(node.output[0], held.axis + (shift if held.axis > axis else 0), held.atoms)
        return
    picked = tracer.values.get(index)
    if picked is None or picked.ndim != 1:
        tracer.freeze(held.atoms, f"{label(node)} picks single channels")
    else:
        tracer.put(node.output[0], axis, held.atoms[picked.astype(np.int64)])


def pad(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through; channels of padding stay as they are."""
    held = tracer.channels.get(node.input[0])
    if held is None:
        return
    rank = len(tracer.dims[node.input[0]])
    sizes = tracer.ints(node.input[1])
    axes = tracer.axes(node, rank, position=3) or list(range(rank))
    if sizes is None or (len(node.input) > 2 and node.input[2] in tracer.channels):
        tracer.freeze(held.atoms, f"{label(node)} has sizes that are computed")
        return
    if held.axis not in axes:
        tracer.put(node.output[0], held.axis, held.atoms)
        return
    place = axes.index(held.axis)
    before, after = sizes[place], sizes[place + len(axes)]
    mode = attributes(node).get("mode", "constant")
    if min(before, after) < 0 or (max(before, after) > 0 and mode != "constant"):
        tracer.freeze(held.atoms, f"{label(node)} repeats or cuts channels")
        return
    ends = tracer.fresh(before + after)
    tracer.freeze(ends, "")
    tracer.put(node.output[0], held.axis, np.concatenate([ends[:before], held.atoms, ends[before:]]))


def resize(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Let channels through an interpolation that keeps their number."""
    held = tracer.channels.get(node.input[0])
    if held is None:
        return
    before, after = tracer.dims.get(node.input[0]), tracer.dims.get(node.output[0])
    by_size = len(node.input) > 3 and node.input[3] and held.axis in _resized(node, held.axis)
    if before is None or after is None or before[held.axis] != after[held.axis] or by_size:
        tracer.freeze(held.atoms, f"{label(node)} interpolates by sizes that name the channels")
    else:
        tracer.put(node.output[0], held.axis, held.atoms)


def depth_to_space(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Unite the channels that become one patch of an output channel."""
    held = tracer.channels.get(node.input[0])
    if held is None:
        return
    block = int(str(attributes(node)["blocksize"])) ** 2
    if held.axis != 1 or len(held.atoms) % block:
        tracer.freeze(held.atoms, f"{label(node)} has channels on another axis")
        return
    by_channel = attributes(node).get("mode", "DCR") == "CRD"
    table = held.atoms.reshape(-1, block).T if by_channel else held.atoms.reshape(block, -1)
    for row in table[1:]:
        tracer.unite(table[0], row)
    tracer.put(node.output[0], 1, table[0])


def shape(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Freeze channels whose number the graph reads."""
    held = tracer.channels.get(node.input[0])
    bounds = attributes(node)
    rank = len(tracer.dims.get(node.input[0], ()))
    start, end = int(str(bounds.get("start", 0))), int(str(bounds.get("end", rank)))
    if held is not None and held.axis in range(rank)[start:end]:
        readers = tracer.readers.get(node.output[0], [])
        only_batch = all(_reads_first(tracer, reader) for reader in readers)
        if not (readers and only_batch and start == 0 and held.axis > 0):
            tracer.freeze(held.atoms, f"{label(node)} reads how many there are")


def _reads_first(tracer: Tracer, node: onnx.NodeProto) -> bool:
    """Tell whether a node takes nothing but the first size out of a shape."""
    if node.op_type == "Gather":
        return tracer.ints(node.input[1]) == [0]
    if node.op_type != "Slice" or len(node.input) < 3 or len(node.input) > 4:
        return False
    return tracer.ints(node.input[1]) in ([0], [-(2**63)]) and tracer.ints(node.input[2]) == [1]


def _resized(node: onnx.NodeProto, axis: int) -> list[int]:
    listed = attributes(node).get("axes")
    return [int(entry) for entry in listed] if isinstance(listed, list) else [axis]
