"""Files with arrays in them: checkpoints, other safetensors, ONNX models, .npz test data."""

from __future__ import annotations

import io
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.inspection.description import Description, Fact, TensorRow, density_fact, digest_fact, size_fact
from hedgerow_codecs import CodecError, Layout, Mask

MAX_LAYOUT_BYTES = 4 << 20
# A mask is spread to a byte for each parameter.
MAX_MASK_PARAMETERS = 1 << 28
MAX_ZIP_DIRECTORY_BYTES = 1 << 20
_MAX_ARRAY_HEADER_BYTES = 1 << 16
_CHECKPOINT = "hedgerow-checkpoint-1"
# What zipfile, zlib and numpy's parser of array headers say of bytes that they cannot make sense of;
# RuntimeError is that of an encrypted member, and RecursionError is one.
_BAD_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_PLAIN_MEMBERS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_END, _ZIP64_END_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
_ZIP_END_BYTES, _ZIP_END_SEARCH = 22, 1 << 16


def describe_safetensors(path: Path) -> Description:
    """Describe a checkpoint of ours, or any other safetensors file; weights are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") == _CHECKPOINT:
                return _checkpoint(file, metadata=metadata, shapes=shapes, num_bytes=path.stat().st_size)
            rows = tuple(
                TensorRow(
                    name=name, shape=shape, kind=file.get_slice(name).get_dtype(), size=math.prod(shape)
                )
                for name, shape in shapes.items()
            )
    except (SafetensorError, CodecError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UsageError(f"begins like a safetensors file, but is damaged or cut short: {error}") from error
    return Description(
        what="a safetensors file that Hedgerow did not write",
        facts=(
            size_fact(path.stat().st_size),
            Fact(name="tensors", value=len(rows)),
            Fact(name="parameters", value=sum(row.size for row in rows)),
        ),
        tensors=rows,
    )


def describe_onnx(data: bytes) -> Description:
    """Describe an ONNX model or template.

    Raises
    ------
    hedgerow_export.ExportError
        It is none, a damaged one, or onnx is not installed.
    """
    from hedgerow_export import describe_model

    found = describe_model(data, foreign=True)
    parameters = int(found["parameters"])
    zeros = sum(entry["zeros"] for entry in found["tensors"])
    operators = {_text(name): number for name, number in found["operators"].items()}
    facts = [
        size_fact(int(found["bytes"])),
        Fact(name="producer", value=found["producer"], text=found["producer"] or "not named"),
        Fact(name="format", value=[found["ir_version"], found["opset"]],
             text=f"IR version {found['ir_version']}, opset {found['opset']}"),
        *(Fact(name=side, value=found[side], text="; ".join(map(_value_text, found[side])))
          for side in ("inputs", "outputs")),
        Fact(name="operators", value=operators, text=_pairs(operators)),
        Fact(name="parameters", value=parameters),
        Fact(name="zeros", value=zeros, text=f"{found['zeros_share']:.1%} of the parameters"),
    ]  # fmt: skip
    if found["layout"] is not None:
        facts.append(digest_fact("layout", bytes.fromhex(found["layout"])))
        sealed = "whole, its seal is right" if found["sealed"] else "no seal: saved anew by another program"
        facts.append(Fact(name="sealed", value=found["sealed"], text=sealed))
    facts += [
        Fact(name=f"metadata.{_text(key)}", value=_text(value)) for key, value in found["metadata"].items()
    ]
    rows = tuple(
        TensorRow(
            name=_text(entry["name"]),
            shape=tuple(entry["shape"]),
            kind=entry.get("kind", "float32"),
            size=math.prod(entry["shape"]),
            live=math.prod(entry["shape"]) - entry["zeros"],
        )
        for entry in found["tensors"]
    )
    # A quantised or sparse export has no layout: other weights cannot be put in.
    ours = found["layout"] is not None or found["producer"] == "hedgerow"
    what = f"an ONNX model of {'Hedgerow' if ours else 'another program'}"
    return Description(what=what, facts=tuple(facts), tensors=rows)


def describe_npz(file: BinaryIO, *, num_bytes: int) -> Description:
    """Describe the arrays of an .npz file by their headers; no array is read."""
    _check_zip_directory(file, num_bytes=num_bytes)
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = [(info.filename, *_array_header(archive, info)) for info in archive.infolist()]
    except _BAD_ARCHIVE as error:
        raise UsageError(f"is a zip archive, but not a whole .npz file of plain arrays: {error}") from error
    rows = tuple(
        TensorRow(name=name.removesuffix(".npy"), shape=shape, kind=str(dtype), size=math.prod(shape))
        for name, shape, dtype in arrays
    )
    by_name = {row.name: row for row in rows}
    pair = [by_name[name].shape for name in ("inputs", "targets") if name in by_name]
    facts = [size_fact(num_bytes), Fact(name="arrays", value=len(rows))]
    if len(pair) == 2 and pair[0][:1] == pair[1][:1] != ():
        samples = Fact(name="samples", value=pair[0][0])
        return Description(
            what="test data: `inputs` and `targets` for [evaluate] data",
            facts=(*facts, samples),
            tensors=rows,
        )
    note = "As [evaluate] data it would need arrays `inputs` and `targets` of one length."
    return Description(what="arrays in an .npz file", facts=tuple(facts), tensors=rows, notes=(note,))


def mask_rows(mask: Mask) -> tuple[TensorRow, ...]:
    """Return the tensors of a mask's layout, with how much of each is live."""
    return tuple(
        TensorRow(name=spec.name, shape=spec.shape, kind=spec.kind, size=spec.size, live=live)
        for spec, live in zip(mask.layout.tensors, mask.lengths, strict=True)
    )


def _checkpoint(
    file: Any, *, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], num_bytes: int
) -> Description:
    if math.prod(shapes["layout"]) > MAX_LAYOUT_BYTES or 8 * math.prod(shapes["mask"]) > MAX_MASK_PARAMETERS:
        raise ValueError("its layout or mask is larger than any model here")
    layout = Layout.from_bytes(file.get_tensor("layout").tobytes())
    bits: NDArray[np.uint8] = file.get_tensor("mask")
    if bits.dtype != np.uint8 or bits.shape != (-(-layout.num_parameters // 8),):
        raise ValueError(f"its mask is {bits.dtype} {bits.shape}, which is not that of its layout")
    live = np.unpackbits(bits, count=layout.num_parameters, bitorder="little").astype(np.bool_)
    mask = Mask(layout=layout, live=live)
    for name in ("weights", "published"):
        if shapes[name] not in ((mask.num_live,), (layout.num_parameters,)):
            raise ValueError(f"its {name} have the shape {shapes[name]}, which is not that of its mask")
    version = int(metadata["version"])
    notes = json.loads(metadata["notes"])
    optimizer = sorted(name.partition(".")[2] for name in shapes if name.startswith("optimizer."))
    return Description(
        what=f"a checkpoint of the coordinator: version {version}, the model after round {version}",
        facts=(
            size_fact(num_bytes),
            Fact(name="version", value=version),
            density_fact(mask.num_live, layout.num_parameters),
            digest_fact("layout", layout.digest),
            digest_fact("mask", mask.digest),
            Fact(name="optimizer", value=optimizer, text=", ".join(optimizer) or "keeps nothing"),
            Fact(name="notes", value=notes, text=", ".join(notes) or "none"),
        ),
        tensors=mask_rows(mask),
        notes=("Whether the weights are those that were written is known to the run's journal alone.",),
    )


def _check_zip_directory(file: BinaryIO, *, num_bytes: int) -> None:
    """Refuse an archive whose table of contents would fill the memory before anything else is looked at."""
    tail_bytes = min(num_bytes, _ZIP_END_SEARCH)
    file.seek(num_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    end = tail.rfind(_ZIP_END)
    if end < 0 or len(tail) - end < _ZIP_END_BYTES:
        raise UsageError("is a zip archive that was cut short")
    directory_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    if directory_bytes > MAX_ZIP_DIRECTORY_BYTES or tail[max(0, end - 20) : end].startswith(
        _ZIP64_END_LOCATOR
    ):
        raise UsageError("is a zip archive with more in it than an .npz file for Hedgerow has")
    file.seek(0)


def _array_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if info.compress_type not in _PLAIN_MEMBERS:
        raise ValueError(f"{info.filename} is compressed in a way that numpy does not use")
    with archive.open(info) as member:
        head = io.BytesIO(member.read(_MAX_ARRAY_HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(head)
    else:
        raise ValueError(f"{info.filename} is of .npy version {version}")
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are never loaded")
    return shape, dtype


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _text(value: str | bytes) -> str:
    # protobuf hands over a name that is not UTF-8 as bytes.
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _value_text(value: dict[str, Any]) -> str:
    shape = " x ".join("any" if size is None else str(size) for size in value["shape"] or ())
    return f"{_text(value['name'])} {value['dtype']} {shape}".strip()
