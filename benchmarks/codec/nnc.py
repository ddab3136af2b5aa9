"""The codec of ISO/IEC 15938-17 as package ``nncodec`` implements it, through its documented functions only.

Its documentation names these settings, which are tried in every combination, the smallest bytes counting:

- ``use_dq``: dependent quantisation by a trellis, on or off (two columns of the tables).
- ``nonweight_qp``: the step of one-dimensional tensors: that of the others, or half of it.
- ``opt_qp``: larger steps in larger layers, or not.

``qp`` is fixed and the vector scaled instead, which sets any step. Row skipping stays on, as is the default:
without it streams are larger by up to 25 % or smaller by less than 0.1 %. ``sparsity`` and ``compress_differences``
change nothing here, and ``codebook`` excludes the trellis and falls back to ``uniform`` on these updates. Tensors have
one- and two-letter names, as their names are in the stream; scales and mask are not counted. Under a mask, it gets
the live values of each tensor, or the tensors with zeros in them, whichever is smaller.
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
from benchmarks.codec.rate import Curve, Point
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.float32]]
_QP = -20
_HALF = -4  # qp for half a step
# What is fed: live values or whole tensors; settings beside the trellis.
_SETTINGS: tuple[tuple[bool, dict[str, object]], ...] = (
    (False, {}),
    (False, {"nonweight_qp": _QP + _HALF}),
    (False, {"opt_qp": True}),
    (False, {"opt_qp": True, "nonweight_qp": _QP + _HALF}),
)


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

    def encode(self, tensors: Tensors, *, trellis: bool, **settings: object) -> bytes:
        """Encode tensors; what the package prints is swallowed."""
        options: dict[str, object] = {"qp": _QP, "nonweight_qp": _QP, "results": self._folder.name}
        options |= {"use_dq": trellis, "verbose": False, **settings}
        with contextlib.redirect_stdout(io.StringIO()):
            return bytes(self._encode(dict(tensors), args=options))

    def decode(self, stream: bytes) -> dict[str, NDArray[np.float32]]:
        """Decode a stream to tensors."""
        with contextlib.redirect_stdout(io.StringIO()):
            return {k: np.asarray(v, np.float32) for k, v in self._decode(bytearray(stream)).items()}

    def curve(
        self, case: Case, vector: NDArray[np.float32], *, trellis: bool, whole: bool, **settings: object
    ) -> Curve:
        """Return the package on a vector, at any step."""
        rms = math.sqrt(float(np.mean(np.square(vector, dtype=np.float64))))
        unit = 2.0 ** (_QP / 4)  # a step, near enough: curves are searched

        def code(log2_step: float) -> Point:
            scaled = (vector * np.float64(unit / (2.0**log2_step * rms))).astype(np.float32)
            stream = self.encode(named_tensors(case, scaled, whole=whole), trellis=trellis, **settings)
            parts = self.decode(stream)
            flat = np.concatenate([parts[short_name(i)].reshape(-1) for i in range(len(parts))])
            decoded = case.mask.gather(flat) if whole else flat
            return Point(num_bytes=len(stream), snr_db=snr_db(scaled, decoded))

        return Curve(coder=code, low=-14.0, high=10.0)


def named_tensors(case: Case, vector: NDArray[np.float32], *, whole: bool) -> dict[str, NDArray[np.float32]]:
    """Cut a live vector into tensors with short names."""
    mask = case.mask
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
    _known: dict[str, float | None] = field(default_factory=dict)
    _curves: dict[tuple[str, bool], list[Curve]] = field(default_factory=dict)

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
            files = sorted(cache.glob("nncodec-*.json"))
            if not files:
                raise ImportError(f"nncodec cannot be imported ({error}), and nothing is cached") from error
            version = files[-1].stem.removeprefix("nncodec-")
            print(f"nncodec is not installed: what {version} took is from {files[-1]}", file=sys.stderr)
        opened = NncodecBytes(cache=cache, package=package, version=version)
        if opened._file.is_file():
            opened._known = json.loads(opened._file.read_text())
        return opened

    @property
    def _file(self) -> Path:
        return self.cache / f"nncodec-{self.version}.json"

    def at(self, case: Case, vector: NDArray[np.float32], target_db: float, *, trellis: bool) -> float | None:
        """Return the fewest bytes over its settings; None where it does not reach the ratio."""
        identity = blake2b(vector.tobytes() + case.mask.digest, digest_size=12).hexdigest()
        key = f"{identity} {target_db:g} {'trellis' if trellis else 'plain'}"
        if key not in self._known:
            if self.package is None:
                return None
            curves = self._curves.setdefault((identity, trellis), list(self._tried(case, vector, trellis)))
            points = [curve.at(target_db) for curve in curves]
            self._known[key] = min((p.num_bytes for p in points if p is not None), default=None)
            self.cache.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(self._known, indent=0))
            part.replace(self._file)
        return self._known[key]

    def _tried(self, case: Case, vector: NDArray[np.float32], trellis: bool) -> Iterator[Curve]:
        assert self.package is not None
        tried = list(_SETTINGS)
        if case.num_live < case.mask.layout.num_parameters:
            tried.append((True, {}))
        for whole, settings in tried:
            yield self.package.curve(case, vector, trellis=trellis, whole=whole, **settings)
