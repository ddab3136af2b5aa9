"""Frozen tensors: those that keep their values through a run, and how frames are made without them.

A frame's live vector has no entries of frozen tensors: it is coded under a mask of the layout that is left
without them. Both ends know the frozen tensors from the plan, so nothing is sent for this.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.errors import LayoutError
from hedgerow_codecs.layout import Layout
from hedgerow_codecs.mask import Mask

MAX_PATTERNS = 64
MAX_PATTERN_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frozen:
    """Which tensors of a layout are frozen.

    Parameters
    ----------
    layout : Layout
        Of the whole model.
    names : tuple[str, ...]
        Tensors of it, in layout order.

    Attributes
    ----------
    entries : ndarray, bool, shape (num_parameters,)
        True where a parameter is frozen; read-only.

    Examples
    --------
    >>> from hedgerow_codecs import TensorSpec
    >>> layout = Layout(tensors=(TensorSpec(name="a.weight", shape=(2,), kind="linear", prunable=True),
    ...                          TensorSpec(name="b.weight", shape=(3,), kind="linear", prunable=True)))
    >>> frozen = Frozen.matching(layout, ["a.*"])
    >>> frozen.names, frozen.moving(Mask.dense(layout)).num_live
    (('a.weight',), 3)
    """

    layout: Layout
    names: tuple[str, ...] = ()
    entries: NDArray[np.bool_] = field(init=False, repr=False)
    _rest: Layout = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tensors = self.layout.tensors
        is_frozen = [tensor.name in self.names for tensor in tensors]
        entries = np.repeat(np.array(is_frozen, np.bool_), [tensor.size for tensor in tensors])
        entries.flags.writeable = False
        rest = tuple(t for t, frozen in zip(tensors, is_frozen, strict=True) if not frozen)
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "_rest", Layout(tensors=rest))

    @classmethod
    def matching(cls, layout: Layout, patterns: Sequence[str]) -> Frozen:
        """Find the tensors that patterns mean.

        A pattern (``*``, ``?``, ``[...]``) means the tensors of that name, and all tensors inside a module of
        that name. The running statistics of a norm whose scale and shift are all frozen are frozen, too.

        Raises
        ------
        LayoutError
            A pattern means no tensor, or there is nothing left to train.
        """
        if not patterns:
            return cls(layout=layout)
        _check_patterns(patterns)
        found: set[str] = set()
        known = [tensor.name for tensor in layout.tensors]
        for pattern in patterns:
            meant = [name for name in known if _means(pattern, name)]
            if not meant:
                close = difflib.get_close_matches(pattern.rstrip("*."), _modules(known), n=1, cutoff=0.4)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise LayoutError(f"'{pattern}' means no tensor of the model{hint}")
            found.update(meant)
        found |= _statistics(layout, found)
        if all(tensor.name in found or tensor.kind == "buffer" for tensor in layout.tensors):
            raise LayoutError("all parameters of the model are frozen: there is nothing left to train")
        return cls(layout=layout, names=tuple(name for name in known if name in found))

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def num_parameters(self) -> int:
        """Number of frozen parameters."""
        return int(np.count_nonzero(self.entries))

    def moving(self, mask: Mask) -> Mask:
        """Return the mask under which frames are made: that of the layout without the frozen tensors."""
        if not self.names:
            return mask
        return Mask(layout=self._rest, live=mask.live[~self.entries])

    def positions(self, mask: Mask) -> NDArray[np.int64]:
        """Return where in the flat vector the entries of a frame's live vector are, ascending."""
        if not self.names:
            return mask.positions
        return np.flatnonzero(mask.live & ~self.entries).astype(np.int64, copy=False)

    def widened(self, update: DecodedUpdate, *, mask: Mask) -> DecodedUpdate:
        """Return a decoded frame as one under the whole `mask`, zero at frozen entries.

        Parameters
        ----------
        update : DecodedUpdate
            Under `moving` of the mask.
        mask : Mask
            Of the whole layout.
        """
        if not self.names:
            return update
        places = np.flatnonzero(~self.entries[mask.live]).astype(np.int64, copy=False)
        if update.dense is not None:
            dense = np.zeros(mask.num_live, np.float32)
            dense[places] = update.dense
            return DecodedUpdate(mask=mask, dense=dense, num_saturated=update.num_saturated)
        assert update.positions is not None
        assert update.codes is not None
        assert update.steps is not None
        steps = np.zeros(len(self.layout.tensors), np.float64)
        steps[[t.name not in self.names for t in self.layout.tensors]] = update.steps
        return DecodedUpdate(
            mask=mask,
            positions=places[update.positions],
            codes=update.codes,
            steps=steps,
            num_saturated=update.num_saturated,
        )


def _check_patterns(patterns: Sequence[str]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise LayoutError(f"{len(patterns)} patterns are too many, {MAX_PATTERNS} may say what is frozen")
    for pattern in patterns:
        if not pattern.isprintable() or not 1 <= len(pattern.encode()) <= MAX_PATTERN_BYTES:
            raise LayoutError(
                f"a pattern has 1 to {MAX_PATTERN_BYTES} bytes of printable text, this is {pattern!r:.80}"
            )


def _means(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def _modules(names: Iterable[str]) -> list[str]:
    """Return all names of tensors and of the modules around them."""
    parts = [name.split(".") for name in names]
    return sorted({".".join(p[:depth]) for p in parts for depth in range(1, len(p) + 1)})


def _statistics(layout: Layout, frozen: set[str]) -> set[str]:
    """Return the buffers beside parameters that are all frozen."""
    owned: dict[str, set[str]] = {}
    for tensor in layout.tensors:
        if tensor.kind != "buffer":
            owned.setdefault(tensor.name.rpartition(".")[0], set()).add(tensor.name)
    return {
        tensor.name
        for tensor in layout.tensors
        if tensor.kind == "buffer" and owned.get(tensor.name.rpartition(".")[0], {""}) <= frozen
    }
