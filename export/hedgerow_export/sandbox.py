"""Foreign models are looked at in a child process: one that crashes or never ends costs an error, not us.

onnxruntime and onnx are C++: a graph that is malformed on purpose can abort the process that loads it. So
whoever has not made a model himself asks `Sandbox` first. Request and answer are one ``.npz`` each on the
child's pipes: bytes and numbers, nothing that would be executed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_export.errors import ExportError, MetricError, MissingPackageError, ModelError

DEFAULT_SECONDS = 120.0
# The least that a child has: onnxruntime alone takes 65 MB.
MIN_MIB = 256
_WORDS = "words"
_MAX_ANSWER_BYTES = 64 << 20
_ERRORS: dict[str, type[ExportError]] = {"MetricError": MetricError, "ModelError": ModelError}


class SandboxError(ModelError):
    """The child died of a model, or had to be stopped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What the child has found.

    Attributes
    ----------
    words : dict
        JSON values by name.
    arrays : dict[str, ndarray]
    """

    words: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Sandbox:
    """A child process for one job at a time.

    Parameters
    ----------
    seconds : float
        Time for each job, above 0.
    mib : int
        Memory for each job, at least `MIN_MIB`.

    Examples
    --------
    >>> Sandbox(seconds=20).run("check", {"model": b""})
    Traceback (most recent call last):
    ...
    hedgerow_export.errors.ModelError: The model is empty (0 bytes).
    """

    def __init__(self, *, seconds: float = DEFAULT_SECONDS, mib: int = 2048) -> None:
        self.seconds = seconds
        self.mib = max(MIN_MIB, mib)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(
        self,
        job: str,
        blobs: Mapping[str, bytes],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        **words: Any,
    ) -> Answer:
        """Do one job, a key of `hedgerow_export.sandbox_child.JOBS`.

        Parameters
        ----------
        job : str
        blobs : Mapping[str, bytes]
            Models.
        arrays : Mapping[str, ndarray], optional
            Inputs and targets.
        words
            JSON values.

        Raises
        ------
        SandboxError
            The child crashed, took too long or too much memory, or was cancelled.
        ModelError, MetricError, MissingPackageError
            As the job says.
        """
        request = _pack({"job": job, **words}, {**(arrays or {}), **_as_arrays(blobs)})
        output, code = self._converse(request)
        if self._cancelled:
            raise SandboxError("The trial of the model was stopped.")
        if code != 0:
            raise SandboxError(_cause(code, seconds=self.seconds, mib=self.mib))
        try:
            words, found = unpack(output)
        except ValueError as error:
            raise SandboxError("The model made the process that tried it answer with garbage.") from error
        if "failed" in words:
            raise _error(words)
        return Answer(words=words, arrays=found)

    def cancel(self) -> None:
        """Stop the job that is under way, and those to come; any thread may call this."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.kill()

    def _converse(self, request: bytes) -> tuple[bytes, int]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "hedgerow_export.sandbox_child",
            str(self.mib),
            str(self.seconds),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._lock:
            if self._cancelled:
                return b"", 0
            try:
                # A group of its own: Ctrl-C is for us, who stop the child.
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    process_group=0,
                )
            except OSError as error:
                raise SandboxError(f"No process could be started: {error.strerror or error}.") from error
            self._child = child
        try:
            output, _ = child.communicate(request, timeout=self.seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return b"", -signal.SIGXCPU
        finally:
            with self._lock:
                self._child = None
            if child.poll() is None:
                child.kill()
                child.wait()
        return output[:_MAX_ANSWER_BYTES], child.returncode


def check_foreign(model: bytes, *, seconds: float = DEFAULT_SECONDS, mib: int = 2048) -> dict[str, Any]:
    """Load a model in a child process: onnx's checker where onnx is installed, then onnxruntime.

    Returns
    -------
    dict
        ``input`` (name, dtype, shape), ``metadata``.

    Raises
    ------
    ModelError
        It is no model that can be run here; `SandboxError` where it brought the child down.
    """
    return Sandbox(seconds=seconds, mib=mib).run("check", {"model": model}).words


def pack(words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return words and arrays as bytes for `unpack`."""
    return _pack(words, arrays)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `pack` made; raises ValueError for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"no archive of arrays: {error}") from error
    words = json.loads(arrays.pop(_WORDS, np.frombuffer(b"null", np.uint8)).tobytes())
    if not isinstance(words, dict):
        raise ValueError("there are no words in the archive")
    return words, arrays


def _pack(words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    packed = io.BytesIO()
    told = np.frombuffer(json.dumps(words).encode(), np.uint8)
    np.savez(packed, allow_pickle=False, **{_WORDS: told, **arrays})
    return packed.getvalue()


def _as_arrays(blobs: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    return {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}


def _error(words: Mapping[str, Any]) -> ExportError:
    kind, reason = str(words["failed"]), str(words.get("reason", ""))
    if kind == "MissingPackageError":
        return MissingPackageError(reason, package=str(words.get("package", "")))
    return _ERRORS.get(kind, ModelError)(reason)


def _cause(code: int, *, seconds: float, mib: int) -> str:
    if -code == signal.SIGXCPU:
        return f"The model was given up: it took more than {seconds:g} s."
    if -code == signal.SIGKILL:
        return f"The model was given up: there is not enough memory for it ({mib} MiB at most)."
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"The model crashes the process that loads it ({name}): it is malformed, perhaps on purpose."
