"""The models that were delivered to a device: the one in use, the last good one before it, and the answers.

::

    models/<digest>.blob   whole models, each checked against its name when it is read
    shelf.json             which one is in use, which one before it, the last answers; replaced as a whole
    model.onnx             a link to the model in use, for other programs
    parts/                 what has come of a model that is on its way

A switch is the replacing of ``shelf.json``: before it the new model is whole on the disk, and the old one
stays there after it. So a power cut at any moment leaves one model in use, whole.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hedgerow_edge_client.errors import StateError
from hedgerow_transport import (
    BlobError,
    BlobStore,
    DeliveryKey,
    DeliveryReport,
    MessageError,
    decode_message,
    write_durably,
)

FOLDER = "delivery"
LINK = "model.onnx"
BY_HAND = "it was put back by hand on this device"
_MODELS, _SHELF, _LOCK, _PARTS = "models", "shelf.json", "lock", "parts"
_DAMAGED = ".damaged"
_SUFFIX = ".blob"
_VERSION = 1
MAX_REPORTS = 8
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What ``shelf.json`` says.

    Attributes
    ----------
    current, previous : bytes
        Digests of the model in use and of the one before it; empty where there is none.
    reports : tuple of DeliveryReport
        The last answers, the newest last.
    """

    current: bytes = b""
    previous: bytes = b""
    reports: tuple[DeliveryReport, ...] = ()


class ModelShelf:
    """Keep delivered models in a client's state directory; used by the client and by commands beside it.

    Parameters
    ----------
    directory : Path
        The client's state directory.

    Attributes
    ----------
    warnings : list of str
        Sentences about what was damaged.

    Raises
    ------
    StateError
        When the folder cannot be made or read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / FOLDER
        self.warnings: list[str] = []
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._models = BlobStore(self.directory / _MODELS)
        except OSError as error:
            raise _failure(f"{self.directory} cannot be used", error, self.directory) from error

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Say whether a state directory has ever had a model delivered."""
        return (directory / FOLDER / _SHELF).is_file()

    @property
    def parts(self) -> Path:
        """Folder for what has come of a model."""
        return self.directory / _PARTS

    def look(self) -> Shelf:
        """Return what is in use, and what was answered."""
        path = self.directory / _SHELF
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return Shelf()
        except OSError as error:
            raise _failure(f"{path} cannot be read", error, path) from error
        try:
            return _from_json(data)
        except (ValueError, KeyError, TypeError, MessageError) as error:
            return self._after_damage(path, error)

    def load(self) -> tuple[bytes, bytes] | None:
        """Return digest and bytes of the model in use; of the one before it when its file is damaged.

        None where no model has been accepted.
        """
        shelf = self.look()
        for digest in (shelf.current, shelf.previous):
            if not digest:
                continue
            try:
                return digest, self._models.get(digest)
            except BlobError as error:
                self.warnings.append(f"{error}; the model before it is used")
        return None

    def path_in_use(self) -> Path | None:
        """Return the file of the model that `load` returns; None where there is none."""
        found = self.load()
        return None if found is None else self.directory / _MODELS / (found[0].hex() + _SUFFIX)

    def mend(self) -> None:
        """Put the last good model in use where the file of the newest is damaged; set the link right."""
        found = self.load()
        digest = b"" if found is None else found[0]
        with self._held():
            shelf = self.look()
            if digest != shelf.current:
                self._write(replace(shelf, current=digest, previous=b""))
            self._link(digest)

    def stage(self, model: bytes) -> bytes:
        """Keep a model beside those in use and before; return its digest. Nothing is switched.

        Raises
        ------
        StateError
            When it cannot be written.
        """
        try:
            return self._models.put(model)
        except BlobError as error:
            raise StateError(f"{error}: is the disk full?", path=self.directory) from error

    def read(self, digest: bytes) -> bytes | None:
        """Return a model by its digest; None where it is not there, or damaged."""
        try:
            return self._models.get(digest)
        except BlobError:
            return None

    def switch(self, digest: bytes, report: DeliveryReport) -> None:
        """Put a staged model in use, with the report that says so, in one step.

        Raises
        ------
        StateError
            When it cannot be written; the model before is in use then.
        """
        with self._held():
            shelf = self.look()
            previous = shelf.current if shelf.current != digest else shelf.previous
            self._write(Shelf(current=digest, previous=previous, reports=_with(shelf.reports, report)))
            self._link(digest)

    def note(self, report: DeliveryReport) -> None:
        """Keep a report, to give it again when it is asked for."""
        with self._held():
            shelf = self.look()
            self._write(replace(shelf, reports=_with(shelf.reports, report)))

    def report_on(self, key: DeliveryKey) -> DeliveryReport | None:
        """Return what was answered to a delivery, as long as the same model is in use."""
        shelf = self.look()
        for report in reversed(shelf.reports):
            if report.key == key:
                same = report.purpose == "calibrate" or report.in_use == shelf.current
                return report if same else None
        return None

    def back(self) -> bytes:
        """Put the model before in use again, and the one in use in its place; return its digest.

        Raises
        ------
        StateError
            When there is none, or its file is damaged.
        """
        with self._held():
            shelf = self.look()
            if not shelf.previous or self.read(shelf.previous) is None:
                raise StateError(
                    f"there is no model before the one in use in {self.directory}", path=self.directory
                )
            told = tuple(
                replace(report, outcome="refused", reason=BY_HAND, in_use=shelf.previous)
                if report.model == shelf.current and report.purpose == "use"
                else report
                for report in shelf.reports
            )
            self._write(Shelf(current=shelf.previous, previous=shelf.current, reports=told))
            self._link(shelf.previous)
        return shelf.previous

    def clear(self, *, but: bytes = b"") -> None:
        """Delete all models but the one in use, the one before it, and one that is wanted."""
        with self._held():
            shelf = self.look()
            with contextlib.suppress(OSError):
                self._models.keep(digest for digest in (shelf.current, shelf.previous, but) if digest)

    def _write(self, shelf: Shelf) -> None:
        path = self.directory / _SHELF
        try:
            write_durably(path, _to_json(shelf))
        except OSError as error:
            raise _failure(f"{path} cannot be written", error, path) from error

    def _link(self, digest: bytes) -> None:
        """Let the link name the model in use. What decides is ``shelf.json``, so no failure is told."""
        link, target = self.directory / LINK, f"{_MODELS}/{digest.hex()}{_SUFFIX}"
        with contextlib.suppress(OSError):
            if not digest:
                link.unlink(missing_ok=True)
            elif not link.is_symlink() or os.readlink(link) != target:
                aside = link.with_suffix(".new")
                aside.unlink(missing_ok=True)
                aside.symlink_to(target)
                os.replace(aside, link)

    def _after_damage(self, path: Path, error: Exception) -> Shelf:
        """Put a damaged ``shelf.json`` aside; the link still says what was in use."""
        current = b""
        with contextlib.suppress(OSError, ValueError):
            current = bytes.fromhex(Path(os.readlink(self.directory / LINK)).stem)
        if current and self.read(current) is None:
            current = b""
        self.warnings.append(
            f"{path} is damaged ({error}); it is now {path.name}{_DAMAGED}, and "
            + ("the model that was in use stays so" if current else "no model is in use")
        )
        with contextlib.suppress(OSError):
            os.replace(path, path.with_name(path.name + _DAMAGED))
        shelf = Shelf(current=current)
        self._write(shelf)
        return shelf

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the shelf for this process: a command may put a model back while the client runs."""
        path = self.directory / _LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _failure(f"{path} cannot be used", error, path) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _with(reports: tuple[DeliveryReport, ...], report: DeliveryReport) -> tuple[DeliveryReport, ...]:
    others = tuple(other for other in reports if other.key != report.key)
    return (*others, report)[-MAX_REPORTS:]


def _to_json(shelf: Shelf) -> bytes:
    content = {
        "version": _VERSION,
        "current": shelf.current.hex(),
        "previous": shelf.previous.hex(),
        "reports": [base64.b64encode(report.encode()).decode() for report in shelf.reports],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _from_json(data: bytes) -> Shelf:
    content: Any = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != _VERSION or len(data) > _MAX_BYTES:
        raise ValueError("it is not of this version")
    digests = [bytes.fromhex(content[name]) for name in ("current", "previous")]
    if any(len(digest) not in (0, 16) for digest in digests):
        raise ValueError("a digest has another length")
    reports = [base64.b64decode(report, validate=True) for report in content["reports"]]
    return Shelf(
        current=digests[0],
        previous=digests[1],
        reports=tuple(decode_message(report, DeliveryReport) for report in reports),
    )


def _failure(what: str, error: OSError, path: Path) -> StateError:
    return StateError(
        f"{what} ({error.strerror or error}): free some space there, or give this user the right to write",
        path=path,
    )
