"""Checkpoints: the server's state after a round, as a safetensors file.

Tensors of the file: `layout` (uint8, the layout's canonical bytes), `mask` (uint8, live bits, least
significant first), `weights` and `published` (float32: at live positions alone where all others are zero,
else at every position), `optimizer.<name>` for what an optimiser on the server keeps, and `pruning.<name>`
for what the pruning policy remembers. The metadata has `format`, `version` and `notes` (JSON).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hedgerow_codecs import CodecError, Layout, Mask
from hedgerow_coordinator.errors import StoreDamaged

_FORMAT = "hedgerow-checkpoint-1"
_OPTIMIZER = "optimizer."
_PRUNING = "pruning."
_EPOCH = "mask_epoch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServerState:
    """The server's side of the model after a round.

    Parameters
    ----------
    version : int
        Committed rounds behind it.
    mask : Mask
    weights : ndarray, float32, shape (num_parameters,)
        The precise weights.
    published : ndarray, float32, shape (num_parameters,)
        What every client holds.
    optimizer : Mapping[str, ndarray]
        State of an optimiser on the server, by name.
    pruning : Mapping[str, ndarray]
        What the pruning policy remembers, by name.
    notes : Mapping[str, object]
        JSON values that belong to this version.
    """

    version: int
    mask: Mask
    weights: NDArray[np.float32] = field(repr=False)
    published: NDArray[np.float32] = field(repr=False)
    optimizer: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    pruning: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mask.layout.check_flat(self.weights)
        self.mask.layout.check_flat(self.published)


def mask_epoch(state: ServerState) -> int | None:
    """Return how often the mask has changed since version 0; None for a run that an older Hedgerow began."""
    told = state.notes.get(_EPOCH, 0 if state.version == 0 else None)
    return told if isinstance(told, int) else None


def epoch_notes(before: ServerState, mask: Mask) -> dict[str, object]:
    """Return the entry for the notes of the version after one, which has this mask."""
    known = mask_epoch(before)
    return {} if known is None else {_EPOCH: known + int(mask != before.mask)}


def encode_checkpoint(state: ServerState) -> bytes:
    """Write a state as the bytes of a safetensors file."""
    tensors: dict[str, NDArray[Any]] = {
        "layout": np.frombuffer(state.mask.layout.to_bytes(), np.uint8),
        "mask": np.packbits(state.mask.live, bitorder="little"),
        "weights": _compact(state.weights, mask=state.mask),
        "published": _compact(state.published, mask=state.mask),
    }
    tensors |= {_OPTIMIZER + name: np.ascontiguousarray(array) for name, array in state.optimizer.items()}
    tensors |= {_PRUNING + name: np.ascontiguousarray(array) for name, array in state.pruning.items()}
    notes = json.dumps(state.notes, sort_keys=True, allow_nan=False)
    return save(tensors, metadata={"format": _FORMAT, "version": str(state.version), "notes": notes})


def decode_checkpoint(data: bytes, *, path: Path) -> ServerState:
    """Read what `encode_checkpoint` has written; `path` names the file in errors.

    Raises
    ------
    StoreDamaged
        It is anything else.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        if metadata["format"] != _FORMAT:
            raise StoreDamaged(f"{path} is a checkpoint of another format, {metadata['format']!r}", path=path)
        tensors = load(data)
        layout = Layout.from_bytes(tensors["layout"].tobytes())
        bits = np.unpackbits(tensors["mask"], count=layout.num_parameters, bitorder="little")
        mask = Mask(layout=layout, live=bits.astype(np.bool_))
        return ServerState(
            version=int(metadata["version"]),
            mask=mask,
            weights=_spread(tensors["weights"], mask=mask),
            published=_spread(tensors["published"], mask=mask),
            optimizer=_named(tensors, prefix=_OPTIMIZER),
            pruning=_named(tensors, prefix=_PRUNING),
            notes=json.loads(metadata["notes"]),
        )
    except (SafetensorError, CodecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreDamaged(f"{path} is not a whole checkpoint: {error}", path=path) from error


def _named(tensors: Mapping[str, NDArray[Any]], *, prefix: str) -> dict[str, NDArray[Any]]:
    found = {name: array for name, array in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array.copy() for name, array in found.items()}


def _compact(flat: NDArray[np.float32], *, mask: Mask) -> NDArray[np.float32]:
    flat = np.ascontiguousarray(flat, np.float32)
    return flat if flat[~mask.live].any() else mask.gather(flat)


def _spread(values: NDArray[Any], *, mask: Mask) -> NDArray[np.float32]:
    if values.dtype != np.float32:
        raise ValueError(f"weights are {values.dtype}, not float32")
    return values.copy() if values.shape == mask.live.shape else mask.scatter(values)
