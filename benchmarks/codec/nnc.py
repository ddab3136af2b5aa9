"""The codec of ISO/IEC 15938-17 as package ``nncodec`` implements it, through its documented functions only.

Of the settings that its documentation names, these are tried, the smallest bytes counting:

- ``use_dq``: dependent quantisation by a trellis, on or off (two columns of the tables).
- ``nonweight_qp``: the step of one-dimensional tensors: that of the others, or half of it.
- ``opt_qp``: larger steps in larger layers, or not.

Its ``sparsity`` has no effect on tensors given as a dictionary. What it is for is tried in its place: entries
below 0.6, 0.75 or 0.95 steps are set to zero before they are encoded (up to 12 dB, beyond which that gains
nothing). The best of all with and without that is a third column.

``qp`` is fixed and the vector scaled instead, which sets any step. Row skipping stays on, as is the default:
without it streams are larger by up to 25 % or smaller by less than 0.1 %. ``compress_differences`` changes
nothing here; ``codebook`` excludes the trellis and falls back to ``uniform`` on these updates. Tensors have
one- and two-letter names, as their names are in the stream; scales and mask are not counted. Under a mask, it
gets the live values of each tensor, or the tensors with zeros in them, whichever is smaller (the latter up to
12 dB only, where it is half as large again already).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.codec.cases import Case, split_live
from benchmarks.codec.measures import snr_db
from benchmarks.codec.peers import Coder
from benchmarks.codec.rate import Curve, Point
from numpy.typing import NDArray

from hedgerow_codecs.mask import Mask

Tensors = Mapping[str, NDArray[np.float32]]
_QP = -20
_HALF = -4  # qp for half a step
_UNIT = 2.0 ** (_QP / 4)  # the step that goes with it
_UP_TO_DB = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to use the package.

    Parameters
    ----------
    column : str
        "plain", "trellis", "thresholded plain" or "thresholded trellis".
    options : mapping
        Of the package.
    threshold : float
        Steps below which entries are set to zero first.
    whole : bool
        Whether tensors are given with zeros where they are pruned.
    up_to_db : float
        Not tried beyond.
    """

    column: str
    options: Mapping[str, object] = field(default_factory=dict)
    threshold: float = 0.0
    whole: bool = False
    up_to_db: float = math.inf


def settings(*, masked: bool) -> Iterator[Setting]:
    """Yield what is tried."""
    for trellis in (True, False):
        column, dq = "trellis" if trellis else "plain", {"use_dq": trellis}
        yield Setting(column=column, options=dq)
        yield Setting(column=column, options={**dq, "nonweight_qp": _QP + _HALF})
        yield Setting(column=column, options={**dq, "opt_qp": True})
        if masked:
            yield Setting(column=column, options=dq, whole=True, up_to_db=_UP_TO_DB)
        for threshold in (0.6, 0.75, 0.95):
            yield Setting(column=f"thresholded {column}", options=dq, threshold=threshold, up_to_db=_UP_TO_DB)


class Nncodec:
    """The package; making one raises ImportError where it is missing."""

    def __init__(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            from nncodec.nn import decode, encode  # type: ignore[import-not-found]  # an optional peer
        self._encode: Callable[..., bytes] = encode
        self._decode: Callable[..., Mapping[str, Any]] = decode
        self.version = importlib.metadata.version("nncodec")
        # It also writes each stream to a file: into memory where that is possible.
        memory = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(
            prefix="hedgerow-nncodec-", dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None
        )

    def encode(self, tensors: Tensors, **options: object) -> bytes:
        """Encode tensors; what the package prints is swallowed."""
        fixed = {"qp": _QP, "nonweight_qp": _QP, "results": self._folder.name, "verbose": False}
        with contextlib.redirect_stdout(io.StringIO()):
            return bytes(self._encode(dict(tensors), args={**fixed, **options}))

    def decode(self, stream: bytes) -> dict[str, NDArray[np.float32]]:
        """Decode a stream to tensors."""
        with contextlib.redirect_stdout(io.StringIO()):
            return {k: np.asarray(v, np.float32) for k, v in self._decode(bytearray(stream)).items()}

    def curve(self, case: Case, vector: NDArray[np.float32], *, setting: Setting) -> Curve:
        """Return the package on a vector, at any step."""

        def code(log2_step: float) -> Point:
            scaled = vector * scale_for(vector, log2_step)
            kept = np.where(np.abs(scaled) < setting.threshold * _UNIT, np.float32(0), scaled)
            stream = self.encode(named_tensors(case.mask, kept, whole=setting.whole), **setting.options)
            parts = self.decode(stream)
            flat = np.concatenate([parts[short_name(i)].reshape(-1) for i in range(len(parts))])
            decoded = case.mask.gather(flat) if setting.whole else flat
            return Point(num_bytes=len(stream), snr_db=snr_db(scaled, decoded))

        return Curve(coder=code, low=-14.0, high=10.0)


def nncodec_coder(
    package: Nncodec, *, trellis: bool, log2_step: float = 1.0, row_skipping: bool = True
) -> Coder:
    """Make a coder of the package at one step, in root mean squares of the vector.

    A float32 that undoes the scaling is added to its stream. Symbols are taken from what it decodes to.
    """

    def encode(vector: NDArray[np.float32], mask: Mask) -> bytes:
        scale = scale_for(vector, log2_step)
        tensors = named_tensors(mask, vector * scale, whole=False)
        stream = package.encode(tensors, use_dq=trellis, row_skipping=row_skipping)
        return scale.tobytes() + stream

    def scaled(blob: bytes) -> NDArray[np.float32]:
        parts = package.decode(blob[4:])
        return np.concatenate([parts[short_name(i)].reshape(-1) for i in range(len(parts))])

    def decode(blob: bytes, _: Mask) -> NDArray[np.float32]:
        values: NDArray[np.float32] = scaled(blob) / np.frombuffer(blob, "<f4", count=1)[0]
        return values

    def symbols(blob: bytes, _: Mask) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = np.rint(scaled(blob) / _UNIT).astype(np.int64)
        return codes

    return Coder(
        name="nncodec trellis" if trellis else "nncodec", encode=encode, decode=decode, symbols=symbols
    )


def scale_for(vector: NDArray[np.float32], log2_step: float) -> np.float32:
    """Return by what to multiply a vector for the package's step to be so many root mean squares of it."""
    rms = math.sqrt(float(np.mean(np.square(vector, dtype=np.float64))))
    return np.float32(_UNIT / (2.0**log2_step * rms))


def named_tensors(mask: Mask, vector: NDArray[np.float32], *, whole: bool) -> dict[str, NDArray[np.float32]]:
    """Cut a live vector into tensors with short names."""
    parts = mask.layout.split(mask.scatter(vector)) if whole else split_live(vector, mask=mask)
    return {short_name(i): part for i, part in enumerate(parts.values())}


def short_name(number: int) -> str:
    """Return the shortest name for a tensor."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[number] if number < 26 else letters[number // 26 - 1] + letters[number % 26]


@dataclass(slots=True, kw_only=True)
class NncodecBytes:
    """Bytes by vector, ratio and trellis: from the cache, where the package measured them before."""

    cache: Path
    package: Nncodec | None
    version: str
    _known: dict[str, dict[str, float]] = field(default_factory=dict)
    _curves: dict[str, list[tuple[Setting, Curve]]] = field(default_factory=dict)

    @staticmethod
    def open(cache: Path) -> NncodecBytes:
        """Open the cache of the package's version, or of the newest there is where it is missing.

        Raises
        ------
        ImportError
            The package is missing and nothing is cached.
        """
        package, version = None, ""
        try:
            package = Nncodec()
            version = package.version
        except ImportError as error:
            files = sorted(cache.glob("nncodec-v2-*.json"))
            if not files:
                raise ImportError(f"nncodec cannot be imported ({error}), and nothing is cached") from error
            version = files[-1].stem.removeprefix("nncodec-v2-")
            print(f"nncodec is not installed: what {version} took is from {files[-1]}", file=sys.stderr)
        opened = NncodecBytes(cache=cache, package=package, version=version)
        if opened._file.is_file():
            opened._known = json.loads(opened._file.read_text())
        return opened

    @property
    def _file(self) -> Path:
        return self.cache / f"nncodec-v2-{self.version}.json"

    def at(self, case: Case, vector: NDArray[np.float32], target_db: float) -> Mapping[str, float]:
        """Return the fewest bytes by column; a column that does not reach the ratio is left out."""
        identity = blake2b(vector.tobytes() + case.mask.digest, digest_size=12).hexdigest()
        key = f"{identity} {target_db:g}"
        if key not in self._known:
            if self.package is None:
                return {}
            if identity not in self._curves:
                self._curves = {identity: self._open_curves(case, vector)}  # points of one are enough to hold
            found: dict[str, float] = {}
            for setting, curve in self._curves[identity]:
                point = curve.at(target_db) if target_db <= setting.up_to_db else None
                if point is not None:
                    found[setting.column] = min(point.num_bytes, found.get(setting.column, math.inf))
            self._known[key] = found
            self._write()
        return self._known[key]

    def _open_curves(self, case: Case, vector: NDArray[np.float32]) -> list[tuple[Setting, Curve]]:
        assert self.package is not None
        tried = settings(masked=case.num_live < case.mask.layout.num_parameters)
        return [(setting, self.package.curve(case, vector, setting=setting)) for setting in tried]

    def _write(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(self._known, indent=0))
        part.replace(self._file)
