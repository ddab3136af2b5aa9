"""The run store: everything that a run leaves behind, in one directory that survives a kill at any moment.

::

    plan.toml  template.onnx        as given
    journal.sqlite                  rounds, updates, traffic, events; what it does not tell of did not happen
    checkpoints/round-00007.safetensors
    updates/00008/pi-3.bin          frames of the round that runs, on disk before they are acknowledged
    estimates/pi-3.00007            what EF21 knows of a client, of the last round that has its update
    blobs/                          what goes out to the devices, by digest
    lock                            held by the coordinator

A file is written before the transaction that tells of it, and deleted after the one that no longer does.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from hedgerow_coordinator.checked_file import file_digest, read_checked, writing
from hedgerow_coordinator.checkpoint import ServerState, decode_checkpoint, encode_checkpoint
from hedgerow_coordinator.errors import (
    PlanError,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreMismatch,
    StoreNotFound,
)
from hedgerow_coordinator.estimate_files import EstimateFiles
from hedgerow_coordinator.journal import Journal, RunFacts, create_journal
from hedgerow_coordinator.plan import Plan, load_plan, parse_plan
from hedgerow_coordinator.records import ClientSummary, EventRecord, RoundRecord, StoredUpdate, UpdateRecord
from hedgerow_coordinator.run_lock import RunLock
from hedgerow_transport import UNFINISHED, BlobStore, sync_directory, write_durably

KEPT_CHECKPOINTS = 3
_PLAN, _TEMPLATE, _JOURNAL, _LOCK = "plan.toml", "template.onnx", "journal.sqlite", "lock"
_CHECKPOINTS, _UPDATES, _BLOBS, _ESTIMATES = "checkpoints", "updates", "blobs", "estimates"
# Beginnings of the names that a killed `create` may leave.
_OURS = (_PLAN, _TEMPLATE, _JOURNAL, _LOCK, _CHECKPOINTS, _UPDATES, _BLOBS)


class RunStore:
    """One run directory, open. Made by `create` or `open`; a context manager; belongs to one thread.

    Attributes
    ----------
    directory : Path
    plan : Plan
        Read from the copy in the directory.
    run_id : str
    created : float
        Unix time.
    blobs : BlobStore
    estimates : EstimateFiles
    """

    def __init__(self, directory: Path, *, journal: Journal, lock: RunLock | None, plan: Plan) -> None:
        facts = journal.facts()
        self.directory = directory
        self.plan = plan
        self.run_id = facts.run_id
        self.created = facts.created
        self.blobs = BlobStore(directory / _BLOBS)
        self.estimates = EstimateFiles(directory / _ESTIMATES, journal=journal)
        self._template_digest = facts.template_digest
        self._journal = journal
        self._lock = lock

    @classmethod
    def create(
        cls, directory: Path | str, *, plan_bytes: bytes, template_bytes: bytes, run_id: str
    ) -> "RunStore":
        """Begin a run in a new or empty directory, or in what a killed `create` has left.

        Raises
        ------
        PlanError
            The plan cannot be used.
        StoreExists
            There is a run, or there are files of something else.
        StoreLocked, StoreError
            Another process is at it, or the directory cannot be written.
        """
        directory = Path(directory)
        plan = parse_plan(plan_bytes, source=_PLAN)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            foreign = sorted(path.name for path in directory.iterdir() if not path.name.startswith(_OURS))
            if foreign:
                raise StoreExists(
                    f"{directory} is not empty ({foreign[0]} is in it); choose a new directory",
                    path=directory,
                )
        lock = RunLock(directory / _LOCK)
        try:
            if (directory / _JOURNAL).exists():
                raise StoreExists(f"there is a run in {directory} already", path=directory)
            with writing(directory):
                for name in (_CHECKPOINTS, _UPDATES, _BLOBS):
                    (directory / name).mkdir(exist_ok=True)
                write_durably(directory / _PLAN, plan_bytes)
                write_durably(directory / _TEMPLATE, template_bytes)
                unfinished = directory / (_JOURNAL + UNFINISHED)
                unfinished.unlink(missing_ok=True)
                facts = RunFacts(
                    run_id=run_id,
                    plan_digest=plan.digest,
                    template_digest=file_digest(template_bytes),
                    created=time.time(),
                    session=0,
                )
                create_journal(unfinished, facts)
                # The rename is the moment in which the directory becomes a run.
                unfinished.rename(directory / _JOURNAL)
                sync_directory(directory)
        finally:
            lock.release()
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path | str, *, plan: Plan | None = None, read_only: bool = False) -> "RunStore":
        """Open a run.

        Parameters
        ----------
        directory : Path or str
        plan : Plan or None
            The plan that the caller is about to carry out; the run must have been made with an equal one.
        read_only : bool
            Take no lock and change nothing, for reports beside a running coordinator.

        Raises
        ------
        StoreNotFound, StoreMismatch, StoreLocked, StoreDamaged
        """
        directory = Path(directory)
        if not (directory / _JOURNAL).is_file():
            raise StoreNotFound(f"there is no run in {directory}", path=directory)
        lock = None if read_only else RunLock(directory / _LOCK)
        journal = None
        try:
            journal = Journal(directory / _JOURNAL, read_only=read_only)
            own = _read_plan(directory / _PLAN, digest=journal.facts().plan_digest)
            if plan is not None and plan.digest != own.digest:
                changes = "; ".join(own.differences(plan)[:3])
                raise StoreMismatch(
                    f"the run in {directory} was made with another plan ({changes}); "
                    "go on with that plan, or begin a new run in another directory",
                    path=directory,
                )
            store = cls(directory, journal=journal, lock=lock, plan=own)
            if not read_only:
                store._sweep()
            return store
        except BaseException:
            if journal is not None:
                journal.close()
            if lock is not None:
                lock.release()
            raise

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal and release the lock."""
        self._journal.close()
        if self._lock is not None:
            self._lock.release()

    def template_bytes(self) -> bytes:
        """Return the ONNX template as it was given.

        Raises
        ------
        StoreDamaged
        """
        return read_checked(self.directory / _TEMPLATE, digest=self._template_digest)

    def next_session(self) -> int:
        """Count one more start of the coordinator and return its number, from 1."""
        return self._journal.next_session()

    def latest(self) -> tuple[int, ServerState] | None:
        """Return the last committed round and the state that it made, or None before the first commit.

        Raises
        ------
        StoreDamaged
            The checkpoint is not what was written. Nothing older is taken instead: the devices are at this
            version.
        """
        last = self._journal.last_committed()
        if last is None:
            return None
        for round_number, name, digest in self._journal.checkpoints():
            if round_number == last:
                path = self.directory / _CHECKPOINTS / name
                return last, decode_checkpoint(read_checked(path, digest=digest), path=path)
        raise StoreDamaged(f"the journal names no checkpoint of round {last}", path=self.directory)

    def kept_rounds(self) -> list[int]:
        """Return the committed rounds whose states are kept, the newest first."""
        last = self._journal.last_committed()
        kept = self._journal.checkpoints()[:KEPT_CHECKPOINTS]
        return [number for number, _, _ in kept if last is not None and number <= last]

    def state_of(self, round_number: int) -> ServerState | None:
        """Return the state that a committed round made, or None where it is not kept any more.

        Raises
        ------
        StoreDamaged
            The checkpoint is not what was written.
        """
        for number, name, digest in self._journal.checkpoints():
            if number == round_number and number in self.kept_rounds():
                path = self.directory / _CHECKPOINTS / name
                return decode_checkpoint(read_checked(path, digest=digest), path=path)
        return None

    def commit_round(self, record: RoundRecord, state: ServerState) -> None:
        """Make a round's outcome permanent: all of it, or nothing.

        Raises
        ------
        StoreError
            Full disk and the like; the run is as it was. Or the round does not follow the last committed one.
        """
        last = self._journal.last_committed()
        if record.status != "committed" or record.round != state.version:
            raise ValueError(f"round {record.round} ({record.status}) with state of version {state.version}")
        if last is not None and record.round != last + 1:
            raise StoreError(
                f"round {record.round} cannot follow round {last} in {self.directory}", path=self.directory
            )
        path = self.directory / _CHECKPOINTS / f"round-{record.round:05d}.safetensors"
        data = encode_checkpoint(state)
        with writing(path):
            write_durably(path, data)
        try:
            self._journal.add_round(record, checkpoint=(path.name, file_digest(data)))
        except StoreError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._sweep()

    def fail_round(self, record: RoundRecord) -> None:
        """Note an attempt that has come to nothing. Its updates stay: they serve the next attempt as well."""
        if record.status != "failed":
            raise ValueError(f"round {record.round} is {record.status}, not failed")
        self._journal.add_round(record)

    def save_update(self, record: UpdateRecord, frame: bytes, *, estimate: bytes | None = None) -> bool:
        """Put an update on the disk, and the EF21 estimate that it makes; then it may be acknowledged.

        Returns
        -------
        bool
            False when this client's update for the round is there already (the same or another one): nothing
            changes then, so that no client counts twice.

        Raises
        ------
        StoreError
            It cannot be written; the update must not be acknowledged.
        """
        if any(known.client == record.client for known in self._journal.updates(record.round)):
            return False
        path = self._update_path(record)
        with writing(path):
            if not path.parent.exists():
                path.parent.mkdir()
                sync_directory(path.parent.parent)
            write_durably(path, frame)
        digest = None
        if estimate is not None:
            digest = self.estimates.write(record.client, record.round, estimate)
        self._journal.add_update(record, estimate=digest)
        return True

    def updates(self, round_number: int) -> Iterator[StoredUpdate]:
        """Read the updates of the running round back, one at a time, by client name.

        An update whose file is gone was taken out by a person: it is dropped from the journal, with an event.

        Raises
        ------
        StoreDamaged
            A file is not what was written.
        """
        for record in self._journal.updates(round_number):
            path = self._update_path(record)
            if path.exists():
                try:
                    frame = read_checked(path, digest=record.digest)
                except StoreDamaged as error:
                    raise StoreDamaged(
                        f"{error}; delete it to go on without this update", path=path
                    ) from error
                yield StoredUpdate(record=record, frame=frame)
            else:
                self.drop_update(record, reason=f"{path} is gone")

    def drop_update(self, record: UpdateRecord, *, reason: str, kind: str = "update lost") -> None:
        """Take an update of the running round out of the journal, with an event that says why."""
        self._journal.forget_update(record.round, record.client)
        self.event(kind, f"{reason}; round {record.round} goes on without it")

    def update_records(self, round_number: int | None = None) -> list[UpdateRecord]:
        """Return the journal's rows on the updates of a round, or of all, by round and client."""
        return self._journal.updates(round_number)

    def record_traffic(self, round_number: int, traffic: Mapping[tuple[str, str], int]) -> None:
        """Add bytes on the wire since the last call, by (direction, kind), to those of a round."""
        self._journal.add_traffic(round_number, traffic)

    def traffic(self, round_number: int | None = None) -> dict[tuple[str, str], int]:
        """Return bytes on the wire by (direction, kind), of a round or of all."""
        return self._journal.traffic(round_number)

    def event(self, kind: str, detail: str) -> None:
        """Note something for the reader of a report."""
        self._journal.add_event(EventRecord(time=time.time(), kind=kind, detail=detail))

    def events(self) -> list[EventRecord]:
        """Return all events in order."""
        return self._journal.events()

    def rounds(self) -> list[RoundRecord]:
        """Return all attempts at rounds in order."""
        return self._journal.rounds()

    def clients(self) -> list[ClientSummary]:
        """Return what each client has done, by name."""
        return self._journal.clients()

    def _update_path(self, record: UpdateRecord) -> Path:
        return self.directory / _UPDATES / f"{record.round:05d}" / f"{record.client}.bin"

    def _sweep(self) -> None:
        """Delete what no row of the journal needs; failing to is no harm, the next sweep does it."""
        last = self._journal.last_committed()
        with contextlib.suppress(OSError, StoreError):
            for round_number, _, _ in self._journal.checkpoints()[KEPT_CHECKPOINTS:]:
                self._journal.forget_checkpoint(round_number)
            kept = {name for _, name, _ in self._journal.checkpoints()}
            for path in (self.directory / _CHECKPOINTS).iterdir():
                if path.name not in kept:
                    path.unlink()
            for path in (self.directory / _UPDATES).iterdir():
                if last is not None and path.name.isdigit() and int(path.name) <= last:
                    shutil.rmtree(path)
            done = -1 if last is None else last
            self.estimates.sweep(last_committed=done, over=done >= self.plan.run.rounds)


def _read_plan(path: Path, *, digest: bytes) -> Plan:
    try:
        plan = load_plan(path)
    except PlanError as error:
        raise StoreDamaged(f"the run's copy of its plan cannot be read: {error}", path=path) from error
    if plan.digest != digest:
        raise StoreDamaged(f"{path} was changed since the run began; put it back as it was", path=path)
    return plan
