"""First weights from a file: safetensors, ONNX initialisers or a torch state dict, matched by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow_codecs import Layout

Arrays = Mapping[str, NDArray[Any]]
# Under these keys training scripts put a state dict beside other things.
_NESTED = ("state_dict", "model_state_dict", "model")
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a file of weights has for a model; names are those of the model's tensors.

    Parameters
    ----------
    taken : dict[str, ndarray]
        Float32 values of the right shape.
    missing : tuple[str, ...]
        Tensors that the file does not have.
    misfits : tuple[str, ...]
        Tensors of another shape in the file, each as a phrase with both shapes.
    unused : tuple[str, ...]
        What the file has besides, by its own names.
    prefix : str
        What was taken off the names of the file.
    """

    taken: dict[str, NDArray[np.float32]]
    missing: tuple[str, ...]
    misfits: tuple[str, ...]
    unused: tuple[str, ...]
    prefix: str = ""

    def sentences(self, layout: Layout) -> list[str]:
        """Tell a person what was taken and what was not."""
        count = sum(values.size for values in self.taken.values())
        told = [
            f"{len(self.taken)} of {len(layout.tensors)} tensors come from the file, "
            f"{count:,} of {layout.num_parameters:,} parameters"
        ]
        if self.prefix:
            told.append(f"all names of the file begin with '{self.prefix}', which was taken off")
        if self.missing:
            told.append(f"not in the file: {_listed(self.missing)}")
        if self.misfits:
            told.append(f"of another shape: {_listed(self.misfits)}")
        if self.unused:
            told.append(f"in the file and not in the model: {_listed(self.unused)}")
        return told


def read_weights(path: Path) -> Arrays:
    """Read all float tensors of a file.

    Raises
    ------
    hedgerow.errors.UsageError
        It is missing, damaged or of another kind.
    """
    readers: dict[str, Callable[[Path], Arrays]] = {
        ".safetensors": _read_safetensors,
        ".onnx": _read_onnx,
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".bin": _read_torch,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"--weights {path} must end in {', '.join(readers)}, which says how to read it")
    if not path.is_file():
        raise UsageError(f"--weights {path}: there is no such file")
    try:
        return reader(path)
    except OSError as error:
        raise UsageError(f"--weights {path} cannot be read: {error.strerror or error}") from error


def match_weights(arrays: Arrays, layout: Layout) -> Match:
    """Find the tensors of a model among arrays, by name.

    Where no name fits, and all names have one beginning (``module.``) without which some fit, that is taken
    off.

    Raises
    ------
    hedgerow.errors.UsageError
        A tensor that fits holds a value that is not finite.
    """
    known = {tensor.name: tensor for tensor in layout.tensors}
    prefix = ""
    if arrays and not known.keys() & arrays.keys():
        first = next(iter(arrays)).partition(".")[0] + "."
        bare = [name.removeprefix(first) for name in arrays if name.startswith(first)]
        if len(bare) == len(arrays) and known.keys() & set(bare):
            prefix = first
    found = {name.removeprefix(prefix): values for name, values in arrays.items()}
    taken, misfits = {}, []
    for name, tensor in known.items():
        values = found.get(name)
        if values is None:
            continue
        if values.shape != tensor.shape:
            misfits.append(f"'{name}' ({_shape(values.shape)} there, {_shape(tensor.shape)} in the model)")
            continue
        with np.errstate(over="ignore"):
            taken[name] = values.astype(np.float32)
        if not np.isfinite(taken[name]).all():
            raise UsageError(f"tensor '{name}' of the weights holds a value that float32 cannot: NaN or inf")
    return Match(
        taken=taken,
        missing=tuple(name for name in known if name not in found),
        misfits=tuple(misfits),
        unused=tuple(prefix + name for name in found if name not in known),
        prefix=prefix,
    )


def pretrained(
    match: Match, first: NDArray[np.float32], *, layout: Layout, partial: bool, path: Path
) -> NDArray[np.float32]:
    """Return first weights in which those of a file have replaced the others, ``(num_parameters,)``.

    Raises
    ------
    hedgerow.errors.UsageError
        Nothing fits; or something is missing or does not fit, and `partial` is not set.
    """
    if not match.taken:
        theirs = f"it has {_listed(match.unused)}" if match.unused else "it has no float tensors"
        ours = _listed([tensor.name for tensor in layout.tensors])
        raise UsageError(f"--weights {path} has no tensor of this model: {theirs}, the model has {ours}")
    if (match.missing or match.misfits) and not partial:
        lacks = [f"lacks {_listed(match.missing)}"] if match.missing else []
        lacks += [f"has another shape for {_listed(match.misfits)}"] if match.misfits else []
        raise UsageError(
            f"--weights {path} {' and '.join(lacks)}: --partial takes the {len(match.taken)} tensors that "
            "fit, and leaves the others as build_model makes them"
        )
    flat = first.copy()
    for name, part in layout.split(flat).items():
        if name in match.taken:
            part[...] = match.taken[name]
    return flat


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, NDArray[Any]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                kind = file.get_slice(name).get_dtype()
                if kind in ("F64", "F32", "F16"):
                    arrays[name] = file.get_tensor(name)
                elif kind.startswith(("BF", "F8")):
                    raise UsageError(f"--weights {path}: tensor '{name}' is {kind}: save it as float32")
    except (SafetensorError, ValueError, TypeError) as error:
        raise UsageError(f"--weights {path} is no safetensors file: {_first_line(error)}") from error
    return arrays


def _read_onnx(path: Path) -> Arrays:
    from onnx import TensorProto, numpy_helper

    from hedgerow_export import ModelError, read_model
    from hedgerow_export.model_proto import parse_model

    try:
        model = parse_model(read_model(path))
        kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        tensors = [tensor for tensor in model.graph.initializer if tensor.data_type in kinds]
        if not all(isinstance(tensor.name, str) for tensor in tensors):
            raise ValueError("a tensor's name is no text")
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    except (ModelError, ValueError, TypeError) as error:
        sentence = f"--weights {path} is no ONNX model that can be read: {_first_line(error)}"
        raise UsageError(sentence) from error


def _read_torch(path: Path) -> Arrays:
    import torch

    try:
        # Only tensors and plain containers: a pickle could run anything otherwise.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # A damaged file makes torch raise anything.
    except Exception as error:
        raise UsageError(
            f"--weights {path} is damaged or holds more than tensors, and nothing of it is run: "
            "save model.state_dict()"
        ) from error
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise UsageError(f"--weights {path} holds a {type(found).__name__}: save model.state_dict()")
    return {
        str(name): tensor.detach().float().numpy()
        for name, tensor in found.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.is_sparse
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
