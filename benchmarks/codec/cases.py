"""What is measured on: recorded updates with their layout and mask, one .npz file for each case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Layout, Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Updates of one model and one way of training.

    Parameters
    ----------
    name : str
        "model/kind".
    mask : Mask
        With the layout; everything is live unless the case is about pruning.
    vectors : tuple of ndarray, float32, shape (num_live,)
        Live vectors, each of another client and round.
    source : str
        The data the model was trained on.
    """

    name: str
    mask: Mask
    vectors: tuple[NDArray[np.float32], ...] = field(repr=False)
    source: str

    @property
    def num_live(self) -> int:
        """Entries of each vector."""
        return self.mask.num_live


def split_live(vector: NDArray[np.float32], *, mask: Mask) -> dict[str, NDArray[np.float32]]:
    """Cut a live vector into tensors: in their shapes where nothing is pruned, else flat.

    Tensors without live entries are left out.
    """
    parts: dict[str, NDArray[np.float32]] = {}
    start = 0
    for tensor, length in zip(mask.layout.tensors, mask.lengths, strict=True):
        part = vector[start : start + length]
        start += length
        if length:
            parts[tensor.name] = part.reshape(tensor.shape) if length == tensor.size else part
    return parts


def save_case(case: Case, path: Path) -> None:
    """Write a case; a reader never sees half a file."""
    arrays: dict[str, NDArray[np.generic]] = {f"vector{i}": v for i, v in enumerate(case.vectors)}
    meta = {"name": case.name, "source": case.source}
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as stream:
        np.savez(
            stream,
            layout=np.frombuffer(case.mask.layout.to_bytes(), np.uint8),
            live=np.packbits(case.mask.live),
            meta=np.array(json.dumps(meta)),
            **arrays,  # type: ignore[arg-type]  # numpy's stub takes them for its keyword-only flag
        )
    part.replace(path)


def load_case(path: Path) -> Case:
    """Read what `save_case` wrote."""
    with np.load(path, allow_pickle=False) as pack:
        layout = Layout.from_bytes(pack["layout"].tobytes())
        live = np.unpackbits(pack["live"], count=layout.num_parameters).astype(np.bool_)
        meta = json.loads(str(pack["meta"]))
        vectors = tuple(pack[name] for name in sorted(pack.files) if name.startswith("vector"))
    return Case(
        name=meta["name"], mask=Mask(layout=layout, live=live), vectors=vectors, source=meta["source"]
    )


def chosen(cases: Iterable[Case], wanted: list[str] | None) -> list[Case]:
    """Return the cases whose names contain one of `wanted`; all of them without.

    Raises
    ------
    ValueError
        Nothing matches; names what there is.
    """
    everything = list(cases)
    found = [case for case in everything if not wanted or any(part in case.name for part in wanted)]
    if not found:
        names = ", ".join(case.name for case in everything)
        raise ValueError(f"no case is called {' or '.join(wanted or [])}; there are {names}")
    return found
