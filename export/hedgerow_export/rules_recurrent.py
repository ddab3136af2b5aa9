"""How recurrent layers couple their hidden units: rows of every gate, columns that read them, biases.

Exporters put the gates of a layer into another order than torch has them: the weights of the layout are cut,
joined and given an axis before the operator reads them. What is computed so, a woven weight, has atoms along
each of its axes, as a weight itself has.

A hidden unit whose rows, columns and biases are all zero stays zero from step to step when it begins with
zero: in a GRU (half of what it was, plus half of tanh(0)), in an LSTM (its cell gets a share of itself and of
tanh(0)) and in a plain layer. So taking it out computes what the zeros compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hedgerow_export.rules_layers import freeze_all
from hedgerow_export.static_shapes import attributes, read_names
from hedgerow_export.tracing import Atoms, Role, Tracer, Woven, label

if TYPE_CHECKING:
    import onnx

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_WEAVING = ("Concat", "Slice", "Squeeze", "Unsqueeze")
_BEGINS = ("Concat", "Slice")
# Attributes that say what a layer computes; others than the usual ones are not understood here.
_UNUSUAL = ("activations", "activation_alpha", "activation_beta", "clip")
_CARRIES_ZEROS = ("Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def weave(tracer: Tracer, node: onnx.NodeProto) -> bool:
    """Follow a node that only cuts, joins or reshapes weights; tell whether it is one, and was understood."""
    data = node.input[:1] if node.op_type != "Concat" else node.input
    known = [tracer.woven_of(name) for name in data]
    woven = any(name in tracer.woven for name in data)
    if node.op_type not in (_WEAVING if woven else _BEGINS) or not node.output:
        return False
    parts = [part for part in known if part is not None]
    if not parts or len(parts) < len(known):
        return False
    if node.op_type == "Concat":
        made = _joined(tracer, node, parts)
    elif node.op_type == "Slice":
        made = _cut(tracer, node, parts[0])
    else:
        made = _moved(tracer, node, parts[0])
    if made is None:
        return False
    tracer.woven[node.output[0]] = made
    tracer.cut |= frozenset().union(*made.keys)
    return True


def freeze_loose_ends(tracer: Tracer) -> None:
    """Keep whatever was cut off a weight and is part of no recurrent layer; for the end of a trace."""
    coupled = {root for atoms in tracer.coupled for root in tracer.roots(atoms).tolist()}
    for key in sorted(tracer.cut):
        for atom in tracer.weights[key].tolist():
            if tracer.root(atom) not in coupled:
                tracer.freeze(np.array([atom], np.int64), "")


def recurrent(tracer: Tracer, node: onnx.NodeProto) -> None:
    """Couple the hidden units of all gates and both directions; freeze them where anything is unusual."""
    reason = _unusual(tracer, node)
    if reason:
        freeze_all(tracer, node, f"{label(node)} {reason}")
        return
    gates = GATES[node.op_type]
    weight, again = tracer.woven_of(node.input[1]), tracer.woven_of(node.input[2])
    bias = tracer.woven_of(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    assert weight is not None
    assert again is not None
    hidden = again.atoms[2]
    assert hidden is not None
    _couple(tracer, weight, 1, np.tile(hidden, gates), "out")
    _couple(tracer, again, 1, np.tile(hidden, gates), "out")
    _couple(tracer, again, 2, hidden, "in")
    _couple(tracer, bias, 1, np.tile(hidden, 2 * gates), "along")
    held = tracer.channels.get(node.input[0])
    if held is not None and held.axis == 2:
        _couple(tracer, weight, 2, held.atoms, "in")
    else:
        columns = weight.atoms[2]
        if columns is not None:
            tracer.freeze(columns, "")
        if held is not None:
            tracer.freeze(held.atoms, f"{label(node)} reads channels on axis {held.axis}")
    for output, axis in zip(node.output, (3, 2, 2), strict=False):
        if output:
            tracer.put(output, axis, hidden)


def _unusual(tracer: Tracer, node: onnx.NodeProto) -> str:
    """Return why the hidden units must stay; nothing when they can go."""
    about = attributes(node)
    gates = GATES[node.op_type]
    for name in node.input[1:3]:
        part = tracer.woven_of(name)
        if part is None or len(part.atoms) != 3 or any(atoms is None for atoms in part.atoms[1:]):
            return "has weights that are computed, and keeps its sizes"
    weight, again = tracer.woven_of(node.input[1]), tracer.woven_of(node.input[2])
    assert weight is not None
    assert again is not None
    hidden = again.atoms[2]
    rows = [part.atoms[1] for part in (weight, again)]
    if hidden is None or any(atoms is None or len(atoms) != gates * len(hidden) for atoms in rows):
        return "has weights of another size than its hidden units, and keeps them"
    if len(node.input) > 3 and node.input[3]:
        bias = tracer.woven_of(node.input[3])
        along = None if bias is None or len(bias.atoms) != 2 else bias.atoms[1]
        if along is None or len(along) != 2 * gates * len(hidden):
            return "has a bias that is computed, and keeps its sizes"
    strange = any(about.get(name) not in (None, [], "") for name in _UNUSUAL)
    if strange or about.get("layout") not in (None, 0):
        return "has activations or a form of its own, and keeps its sizes"
    if len(node.input) > 4 and node.input[4]:
        return "has sequences of different lengths, and keeps its sizes"
    if len(node.input) > 7 and node.input[7]:
        return "has peepholes, and keeps its sizes"
    if any(name and not is_zero(tracer, name) for name in node.input[5:7]):
        return "begins with a state that is not zero, and keeps its sizes"
    return ""


def is_zero(tracer: Tracer, name: str, *, depth: int = 0) -> bool:
    """Say whether a value is zero whatever comes in: made of zeros by moving and spreading them."""
    if name in tracer.zeros:
        return True
    node = tracer.makers.get(name)
    if node is None or depth > 20:
        return False
    if node.op_type == "ConstantOfShape":
        return not node.attribute  # by default it is filled with zeros
    return node.op_type in _CARRIES_ZEROS and is_zero(tracer, node.input[0], depth=depth + 1)


def reads_woven(tracer: Tracer, node: onnx.NodeProto) -> bool:
    """Say whether a node reads a woven weight."""
    return any(name in tracer.woven for name in read_names(node))


def _couple(tracer: Tracer, value: Woven | None, axis: int, atoms: Atoms, role: Role) -> None:
    own = None if value is None else value.atoms[axis]
    if value is None or own is None:
        return
    tracer.unite(own, atoms)
    tracer.coupled.append(own)
    for key in value.keys[axis]:
        tracer.roles[key] = role


def _joined(tracer: Tracer, node: onnx.NodeProto, parts: list[Woven]) -> Woven | None:
    rank = len(parts[0].atoms)
    axis = attributes(node).get("axis")
    if not isinstance(axis, int) or any(len(part.atoms) != rank for part in parts):
        return None
    atoms: list[Atoms | None] = []
    for place in range(rank):
        held = [part.atoms[place] for part in parts]
        if place == axis % rank:
            # Axes that were put in have no atoms: directions, which stay.
            whole = [entry for entry in held if entry is not None]
            if whole and len(whole) < len(held):
                return None
            atoms.append(np.concatenate(whole) if whole else None)
            continue
        first = held[0]
        for entry in held[1:]:
            if (first is None) is not (entry is None):
                return None
            if first is not None and entry is not None:
                if len(first) != len(entry):
                    return None
                tracer.unite(first, entry)
        atoms.append(first)
    keys = tuple(frozenset().union(*(part.keys[place] for part in parts)) for place in range(rank))
    return Woven(atoms=tuple(atoms), keys=keys)


def _cut(tracer: Tracer, node: onnx.NodeProto, part: Woven) -> Woven | None:
    bounds = cut_bounds(tracer, node, len(part.atoms))
    if bounds is None:
        return None
    atoms = list(part.atoms)
    for axis, (first, last) in bounds.items():
        held = atoms[axis]
        if held is None:
            return None
        begin, end, _ = slice(first, last).indices(len(held))
        if end <= begin:
            return None
        atoms[axis] = held[begin:end]
    return Woven(atoms=tuple(atoms), keys=part.keys)


def cut_bounds(tracer: Tracer, node: onnx.NodeProto, rank: int) -> dict[int, tuple[int, int]] | None:
    """Return (start, end) by axis of a Slice with constant bounds and steps of 1; None for any other."""
    given = [tracer.ints(name) for name in node.input[1:3]]
    axes = tracer.axes(node, rank, position=3) or list(range(rank))
    steps = tracer.ints(node.input[4]) if len(node.input) > 4 and node.input[4] else None
    if len(given) < 2 or given[0] is None or given[1] is None:
        return None
    if not len(given[0]) == len(given[1]) == len(axes) or (steps is not None and set(steps) != {1}):
        return None
    return {axis: (first, last) for axis, first, last in zip(axes, given[0], given[1], strict=True)}


def _moved(tracer: Tracer, node: onnx.NodeProto, part: Woven) -> Woven | None:
    """Put in axes of size 1, or take them out."""
    added = node.op_type == "Unsqueeze"
    count = len(tracer.ints(node.input[1]) or ()) if len(node.input) > 1 else 0
    longer = len(part.atoms) + (count if added else 0)
    changed = tracer.axes(node, longer)
    if not changed:
        return None
    stay = [axis for axis in range(longer) if axis not in changed]
    if added:
        none: frozenset[tuple[str, int]] = frozenset()
        atoms = tuple(part.atoms[stay.index(axis)] if axis in stay else None for axis in range(longer))
        keys = tuple(part.keys[stay.index(axis)] if axis in stay else none for axis in range(longer))
        return Woven(atoms=atoms, keys=keys)
    if any(part.atoms[axis] is not None for axis in changed):
        return None
    return Woven(atoms=tuple(part.atoms[axis] for axis in stay), keys=tuple(part.keys[axis] for axis in stay))
