"""How layers with weights couple channels: convolutions, linear layers, norms, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hedgerow_export.static_shapes import attributes, read_names
from hedgerow_export.tracing import Atoms, Tracer, label

if TYPE_CHECKING:
    import onnx


def convolution(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple the columns of a kernel with the inputs' channels; its rows are the outputs' channels."""
    if not _has_weight(tracer, node):
        return
    name, weight = node.input[0], node.input[1]
    groups = _int(node, "group", 1)
    outputs = _axis(tracer, weight, 0)
    inputs = _channels_at(tracer, name, 1)
    if groups == 1:
        tracer.use_weight(weight, {0: (outputs, "out"), 1: (_or_frozen(tracer, inputs, weight, 1), "in")})
    else:
        _grouped(tracer, node, inputs, outputs, groups)
    _bias(tracer, node, 2, outputs)
    tracer.put(node.output[0], 1, outputs)


def transposed_convolution(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple rows of a kernel with the inputs' channels; its columns are the outputs' channels."""
    if not _has_weight(tracer, node):
        return
    if _int(node, "group", 1) != 1:
        freeze_all(tracer, node, f"{label(node)} is a transposed convolution in groups")
        return
    weight = node.input[1]
    outputs = _axis(tracer, weight, 1)
    inputs = _or_frozen(tracer, _channels_at(tracer, node.input[0], 1), weight, 0)
    tracer.use_weight(weight, {0: (inputs, "in"), 1: (outputs, "out")})
    _bias(tracer, node, 2, outputs)
    tracer.put(node.output[0], 1, outputs)


def gemm(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple the columns of a matrix with the inputs' channels; its rows are the outputs' channels."""
    if not _has_weight(tracer, node) or _int(node, "transA", 0):
        freeze_all(tracer, node, f"{label(node)} multiplies no weight from the right")
        return
    weight = node.input[1]
    row, column = (0, 1) if _int(node, "transB", 0) else (1, 0)
    outputs = _axis(tracer, weight, row)
    inputs = _or_frozen(tracer, _channels_at(tracer, node.input[0], 1), weight, column)
    tracer.use_weight(weight, {row: (outputs, "out"), column: (inputs, "in")})
    _bias(tracer, node, 2, outputs)
    tracer.put(node.output[0], 1, outputs)


def matmul(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple a linear layer as `gemm` does; between two activations only leading axes may be channels."""
    first, second = node.input
    if first in tracer.views or first not in tracer.dims or second not in tracer.dims:
        freeze_all(tracer, node, f"{label(node)} has a weight on its left side, or operands of unknown shape")
        return
    if second not in tracer.views:
        _product(tracer, node)
        return
    rank = len(tracer.dims[first])
    if len(tracer.dims[second]) != 2 or rank < 2:
        freeze_all(tracer, node, f"{label(node)} multiplies by a tensor that is no matrix")
        return
    inputs = tracer.channels.get(first)
    outputs = _axis(tracer, second, 1)
    if inputs is not None and inputs.axis != rank - 1:
        # A matrix over another axis, as in a mixer: the channels go through, its own rows stay.
        tracer.freeze_value(second, f"{label(node)} works across another axis than the channels'")
        tracer.put(node.output[0], inputs.axis, inputs.atoms)
        return
    columns = _or_frozen(tracer, None if inputs is None else inputs.atoms, second, 0)
    tracer.use_weight(second, {1: (outputs, "out"), 0: (columns, "in")})
    tracer.put(node.output[0], rank - 1, outputs)


def channel_norm(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple scale, shift and statistics of a batch or instance norm with the channels."""
    atoms = _channels_at(tracer, node.input[0], 1)
    names = [name for name in node.input[1:] if name]
    if atoms is None or any(name not in tracer.views for name in names):
        freeze_all(tracer, node, f"{label(node)} has inputs whose channels are not known")
        return
    for name in names:
        tracer.use_weight(name, {0: (atoms, "along")})
    tracer.put(node.output[0], 1, atoms)


def layer_norm(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Freeze channels that a norm mixes; let others through."""
    rank = len(tracer.dims.get(node.input[0], ()))
    start = _int(node, "axis", -1) % max(rank, 1)
    inputs = tracer.channels.get(node.input[0])
    for name in node.input[1:]:
        if name:
            tracer.freeze_value(name, "")
    if inputs is None:
        return
    if not rank or inputs.axis >= start:
        tracer.freeze(inputs.atoms, f"{label(node)} mixes the channels")
    else:
        tracer.put(node.output[0], inputs.axis, inputs.atoms)


def freeze_all(tracer: Tracer, node: onnx.NodeProto, reason: str) -> None:
    """Freeze whatever a node reads."""
    for name in read_names(node):
        tracer.freeze_value(name, reason)


def _grouped(tracer: Tracer, node: onnx.NodeProto, inputs: Atoms | None, outputs: Atoms, groups: int) -> None:
    weight = node.input[1]
    wide = tracer.dims[weight][1]
    if inputs is None or len(inputs) != groups * wide or len(outputs) % groups:
        tracer.freeze_value(weight, f"{label(node)} has inputs whose channels are not known")
        if inputs is not None:
            tracer.freeze(inputs, f"{label(node)} has groups that do not divide the channels")
        return
    columns, rows = inputs.reshape(groups, wide), outputs.reshape(groups, -1)
    if min(wide, rows.shape[1]) >= groups > 1:  # the same channels out of every group
        for group in range(1, groups):
            tracer.unite(columns[0], columns[group])
            tracer.unite(rows[0], rows[group])
        tracer.use_weight(weight, {0: (outputs, "out"), 1: (columns[0], "in")})
        return
    for group in range(groups):  # whole groups; a depthwise convolution has one channel in each
        for atoms in (columns[group], rows[group]):
            tracer.unite(atoms[:1].repeat(len(atoms)), atoms)
        tracer.unite(columns[group][:1], rows[group][:1])
    tracer.use_weight(weight, {0: (outputs, "along")})


def _product(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Multiply two activations: batch axes may be channels (heads), and the outer rows and columns."""
    ranks = [len(tracer.dims[name]) for name in node.input]
    rank = max(ranks)
    kept: list[tuple[int, Atoms]] = []
    for position, name in enumerate(node.input):
        held = tracer.channels.get(name)
        if held is None:
            continue
        axis = held.axis + rank - ranks[position]
        contracted = axis == (rank - 1 if position == 0 else rank - 2)
        if contracted:
            tracer.freeze(held.atoms, f"{label(node)} sums over the channels of two computed values")
        else:
            kept.append((axis, held.atoms))
    if len(kept) == 2 and kept[0][0] == kept[1][0] < rank - 2 and len(kept[0][1]) == len(kept[1][1]):
        tracer.unite(kept[0][1], kept[1][1])
        kept.pop()
    elif len(kept) == 1 and kept[0][0] < rank - 2:  # the other operand keeps its size along this axis
        sizes = [tracer.dims[n][kept[0][0] - rank + r] if r - rank + kept[0][0] >= 0 else 1
                 for n, r in zip(node.input, ranks, strict=True)]  # fmt: skip
        if min(sizes) > 1:
            tracer.freeze(kept[0][1], f"{label(node)} multiplies heads by a value that has none")
            return
    elif len(kept) == 2:
        for _, atoms in kept:
            tracer.freeze(atoms, f"{label(node)} multiplies channels of different axes")
        return
    if kept:
        tracer.put(node.output[0], *kept[0])


def _has_weight(tracer: Tracer, node: onnx.NodeProto) -> bool:
    name = node.input[1]
    axes = tracer.views[name].axes if name in tracer.views else ()
    if len(axes) >= 2 and all(axis is not None for axis in axes):
        return True
    freeze_all(tracer, node, f"{label(node)} has weights that are computed")
    return False


def _axis(tracer: Tracer, name: str, axis: int) -> Atoms:
    """Return the atoms of a tensor's own axis."""
    atoms = tracer.weight_axis(name, axis)
    assert atoms is not None, name
    return atoms


def _channels_at(tracer: Tracer, name: str, axis: int) -> Atoms | None:
    """Return the atoms along one axis of a value; channels on any other axis are frozen."""
    held = tracer.channels.get(name)
    if held is None:
        return None
    if held.axis != axis:
        tracer.freeze(
            held.atoms, f"a layer with weights reads {name!r} with its channels on axis {held.axis}"
        )
        return None
    return held.atoms


def _or_frozen(tracer: Tracer, atoms: Atoms | None, weight: str, axis: int) -> Atoms:
    """Return the atoms, or those of a weight's axis, frozen, where the inputs have no channels."""
    if atoms is not None:
        return atoms
    own = _axis(tracer, weight, axis)
    tracer.freeze(own, "")
    return own


def _bias(tracer: Tracer, node: onnx.NodeProto, position: int, atoms: Atoms) -> None:
    if len(node.input) <= position or not node.input[position]:
        return
    name = node.input[position]
    if name not in tracer.views:
        tracer.freeze(atoms, f"{label(node)} has a bias that is computed")
        tracer.freeze_value(name, f"{label(node)} takes it as its bias")
    elif not tracer.dims[name] or tracer.dims[name][-1] == 1:
        tracer.freeze_value(name, "")
    else:
        tracer.use_weight(name, {-1: (atoms, "along")})


def _int(node: onnx.NodeProto, name: str, default: int) -> int:
    value = attributes(node).get(name, default)
    return value if isinstance(value, int) else default
