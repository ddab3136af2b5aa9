"""What a client must still know after a power cut: the model it holds, its error feedback, its unsent update.

One file, ``snapshot``: the eight bytes ``HGSTATE1``, the blake2b-128 digest of the rest, and a msgpack map. A
file ``session`` of the same form counts the starts. Both are replaced whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import FEEDBACKS
from hedgerow_edge_client.errors import StateError
from hedgerow_transport import write_durably

MAGIC = b"HGSTATE1"
_DIGEST_BYTES = 16
_SNAPSHOT, _SESSION, _LOCK = "snapshot", "session", "lock"
_BLOBS = "blobs"
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """An update that is made but not acknowledged.

    Parameters
    ----------
    round
        The round it is for.
    frame
        The update as it goes over the wire.
    residual
        Flat float32 vector: what the error feedback keeps once the update is taken.
    num_samples
        Samples behind the update.
    metrics
        Of the training, by name.
    train_s
        Seconds of training.
    """

    round: int
    frame: bytes
    residual: NDArray[np.float32]
    num_samples: int
    metrics: dict[str, float]
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """Everything that a session keeps.

    Parameters
    ----------
    run
        Id of the run; empty before the first.
    layout
        Digest of the layout.
    version
        Version of `weights`; -1 when there is none.
    weights
        Flat float32 vector ``(num_parameters,)``.
    residual
        What the error feedback keeps, a vector of the same form: the residual, or EF21's estimate.
    live
        Boolean vector ``(num_parameters,)``, the mask.
    done_round
        The last round that needs no answer any more; 0 at the beginning.
    pending
        The update that waits for its acknowledgement.
    feedback
        The kind of error feedback, one of `hedgerow_codecs.FEEDBACKS`.
    personal
        Boolean vector ``(num_parameters,)``, the mask of this device's own model; None where it has none.
    sampled
        The seed of weights that stay as they were drawn, where `weights` are the probabilities that they are
        there (FedPM); else None.

    Raises
    ------
    ValueError
        Vectors that differ in shape or are of another type.
    """

    run: str
    layout: bytes
    version: int
    weights: NDArray[np.float32]
    live: NDArray[np.bool_]
    residual: NDArray[np.float32]
    done_round: int = 0
    pending: Pending | None = None
    feedback: str = "residual"
    personal: NDArray[np.bool_] | None = None
    sampled: int | None = None

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACKS:
            raise ValueError(f"feedback must be one of {', '.join(FEEDBACKS)}, got {self.feedback!r}")
        vectors = [("weights", self.weights, np.float32), ("live", self.live, np.bool_)]
        vectors.append(("residual", self.residual, np.float32))
        if self.pending is not None:
            vectors.append(("pending residual", self.pending.residual, np.float32))
        if self.personal is not None:
            vectors.append(("personal", self.personal, np.bool_))
        for name, vector, kind in vectors:
            if vector.dtype != kind or vector.shape != (self.weights.size,):
                raise ValueError(
                    f"{name} must be {kind.__name__} ({self.weights.size},), "
                    f"got {vector.dtype} {vector.shape}"
                )


class ClientState:
    """A state directory, held for this process alone.

    Parameters
    ----------
    directory
        Made when it is not there.

    Attributes
    ----------
    warnings : list of str
        Sentences about damaged files that were put aside.

    Raises
    ------
    StateError
        The directory cannot be made or written, or another running client uses it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warnings: list[str] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _state_error(error, f"the state directory {directory} cannot be used", directory) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError(
                f"the state directory {directory} is used by another running client: "
                "stop that one, or give this one a directory of its own",
                path=directory,
            ) from error

    @property
    def blobs(self) -> Path:
        """Folder for what has come of blobs."""
        return self.directory / _BLOBS

    def load(self) -> Snapshot | None:
        """Return what was saved last; None on a first start, or when the file is damaged (see `warnings`).

        Raises
        ------
        StateError
            The file is there and cannot be read.
        """
        body = self._read(_SNAPSHOT)
        if body is None:
            return None
        try:
            return _snapshot(_unpack(body))
        except (ValueError, TypeError, KeyError) as error:
            self._put_aside(_SNAPSHOT, f"{type(error).__name__}: {error}")
            return None

    def save(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` in place of the one before, whole or not at all.

        Raises
        ------
        StateError
            Full disk or no permission; the one before is still there then.
        """
        self._write(_SNAPSHOT, _pack(_snapshot_map(snapshot)))

    def next_session(self) -> int:
        """Count this start and return its number, from 1; it is larger than any number before.

        Raises
        ------
        StateError
            Full disk or no permission.
        """
        before = 0
        body = self._read(_SESSION)
        if body is not None:
            try:
                before = int(_unpack(body)["session"])
            except (ValueError, TypeError, KeyError) as error:
                self._put_aside(_SESSION, f"{type(error).__name__}: {error}")
        if (self.directory / (_SESSION + _DAMAGED)).exists():
            # How far the count had come is lost; no count of starts is as large as the seconds since 1970.
            before = max(before, int(time.time()))
        self._write(_SESSION, _pack({"session": before + 1}))
        return before + 1

    def close(self) -> None:
        """Give the directory back. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self, name: str) -> bytes | None:
        path = self.directory / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _state_error(error, f"{path} cannot be read", path) from error
        start = len(MAGIC) + _DIGEST_BYTES
        if not data.startswith(MAGIC) or len(data) < start:
            self._put_aside(name, "it is not a state file of this version")
            return None
        if blake2b(data[start:], digest_size=_DIGEST_BYTES).digest() != data[len(MAGIC) : start]:
            self._put_aside(name, "its content does not fit its digest")
            return None
        return data[start:]

    def _put_aside(self, name: str, reason: str) -> None:
        path = self.directory / name
        aside = path.with_name(name + _DAMAGED)
        try:
            os.replace(path, aside)
        except OSError as error:
            raise _state_error(error, f"{path} is damaged and cannot be renamed", path) from error
        self.warnings.append(
            f"{path} is damaged ({reason}); it is now {aside.name}, and the client starts anew"
        )

    def _write(self, name: str, body: bytes) -> None:
        path = self.directory / name
        digest = blake2b(body, digest_size=_DIGEST_BYTES).digest()
        try:
            write_durably(path, MAGIC + digest + body)
        except OSError as error:
            raise _state_error(error, f"{path} cannot be written", path) from error


def read_snapshot(directory: Path) -> Snapshot:
    """Read what a client keeps in its state folder, also while it runs; nothing is changed there.

    Raises
    ------
    StateError
        There is nothing, or it cannot be read.
    """
    path = directory / _SNAPSHOT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StateError(
            f"{directory} is no state folder of a client: name what `hedgerow client --state-dir` was given",
            path=path,
        ) from None
    except OSError as error:
        raise _state_error(error, f"{path} cannot be read", path) from error
    start = len(MAGIC) + _DIGEST_BYTES
    body, digest = data[start:], data[len(MAGIC) : start]
    try:
        if not data.startswith(MAGIC) or blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
            raise ValueError("its content does not fit its digest")
        return _snapshot(_unpack(body))
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(
            f"{path} is damaged ({error}): start the client, which begins anew", path=path
        ) from error


class MemoryState:
    """The same without a disk, for simulations."""

    blobs: Path | None = None

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._snapshot: Snapshot | None = None
        self._session = 0

    def load(self) -> Snapshot | None:
        """Return what was saved last."""
        return self._snapshot

    def save(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` in place of the one before."""
        self._snapshot = snapshot

    def next_session(self) -> int:
        """Count this start and return its number, from 1."""
        self._session += 1
        return self._session

    def close(self) -> None:
        """Do nothing."""


def _state_error(error: OSError, what: str, path: Path) -> StateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError(f"{what}, the disk is full: free some space and start the client again", path=path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StateError(
            f"{what} ({error.strerror}): give this user the right to write there, or name another directory",
            path=path,
        )
    return StateError(f"{what} ({error.strerror or error})", path=path)


def _pack(content: Mapping[str, Any]) -> bytes:
    return bytes(msgpack.packb(content, use_bin_type=True) or b"")


def _unpack(body: bytes) -> dict[str, Any]:
    try:
        content = msgpack.unpackb(body, raw=False)
    except msgpack.UnpackException as error:
        raise ValueError(f"no msgpack: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("no map")
    return content


def _snapshot_map(snapshot: Snapshot) -> dict[str, Any]:
    pending = snapshot.pending
    # The file of a residual has no word for it, as before there were other kinds.
    kind: dict[str, Any] = {} if snapshot.feedback == "residual" else {"feedback": snapshot.feedback}
    if snapshot.personal is not None:
        kind["personal"] = np.packbits(snapshot.personal).tobytes()
    if snapshot.sampled is not None:
        kind["sampled"] = snapshot.sampled
    return kind | {
        "run": snapshot.run,
        "layout": snapshot.layout,
        "version": snapshot.version,
        "weights": _floats(snapshot.weights),
        "live": np.packbits(snapshot.live).tobytes(),
        "residual": _floats(snapshot.residual),
        "done_round": snapshot.done_round,
        "pending": None
        if pending is None
        else {
            "round": pending.round,
            "frame": pending.frame,
            "residual": _floats(pending.residual),
            "num_samples": pending.num_samples,
            "metrics": pending.metrics,
            "train_s": pending.train_s,
        },
    }


def _snapshot(content: Mapping[str, Any]) -> Snapshot:
    weights = _vector(content["weights"])
    live = _bits(content["live"], count=weights.size)
    personal = None if content.get("personal") is None else _bits(content["personal"], count=weights.size)
    pending = content["pending"]
    if pending is not None:
        pending = Pending(**{**pending, "residual": _vector(pending["residual"])})
    arrays = {"weights": weights, "live": live, "residual": _vector(content["residual"]), "pending": pending}
    return Snapshot(**{**content, **arrays, "personal": personal})


def _bits(data: bytes, *, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.bool_)


def _floats(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()


def _vector(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4").astype(np.float32)
