"""The journal of a run: one SQLite file; a write is on the disk when the call returns."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow_coordinator.errors import StoreDamaged, StoreError, StoreMismatch
from hedgerow_coordinator.records import ClientSummary, EventRecord, RoundRecord, UpdateRecord

JOURNAL_VERSION = 1
# "HGRW", so that another program's database is not taken for ours.
_APPLICATION_ID = 0x48475257
_SCHEMA = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, plan_digest BLOB NOT NULL, template_digest BLOB NOT NULL, created REAL NOT NULL,
    session INTEGER NOT NULL
) STRICT;
CREATE TABLE rounds (
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, started REAL NOT NULL, ended REAL NOT NULL,
    seconds REAL NOT NULL, cohort INTEGER NOT NULL, updates INTEGER NOT NULL, density REAL NOT NULL,
    accuracy REAL, loss REAL, uplink_bytes INTEGER NOT NULL, broadcast_bytes INTEGER NOT NULL,
    delivered_bytes INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (round, attempt)
) STRICT;
CREATE UNIQUE INDEX one_commit_per_round ON rounds (round) WHERE status = 'committed';
CREATE TABLE checkpoints (round INTEGER PRIMARY KEY, file TEXT NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TABLE updates (
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, client TEXT NOT NULL, digest BLOB NOT NULL,
    num_bytes INTEGER NOT NULL, num_samples INTEGER NOT NULL, received REAL NOT NULL, train_s REAL NOT NULL,
    received_bytes INTEGER NOT NULL, loss REAL, metrics TEXT NOT NULL,
    PRIMARY KEY (round, client)
) STRICT;
CREATE TABLE traffic (
    round INTEGER NOT NULL, direction TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (round, direction, kind)
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
"""
# Apart from the rest, so that journals from before there were any can have them.
_ESTIMATES_SCHEMA = """
CREATE TABLE IF NOT EXISTS estimates (
    client TEXT NOT NULL, round INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (client, round)
) STRICT;
"""
_ROUND_COLUMNS = tuple(field.name for field in fields(RoundRecord))
_UPDATE_COLUMNS = tuple(field.name for field in fields(UpdateRecord))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the journal knows about its run."""

    run_id: str
    plan_digest: bytes
    template_digest: bytes
    created: float
    session: int


def create_journal(path: Path, facts: RunFacts) -> None:
    """Make a journal in a new file.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    with _sentences(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {JOURNAL_VERSION};"
            f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA} {_ESTIMATES_SCHEMA} COMMIT;"
        )
        row = (facts.run_id, facts.plan_digest, facts.template_digest, facts.created, facts.session)
        connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)


class Journal:
    """Read and write the journal of one run; belongs to the thread that opened it.

    Parameters
    ----------
    path : Path
    read_only : bool
        Refuse every write. Works beside a coordinator that writes.

    Raises
    ------
    StoreDamaged, StoreMismatch
        Not a journal, a broken one, or one of another version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        with _sentences(path):
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            try:
                self._check()
                if read_only:
                    self._connection.execute("PRAGMA query_only = ON")
                else:
                    # Readers do not stop the writer, and a commit waits for the disk.
                    self._connection.execute("PRAGMA journal_mode = WAL")
                    self._connection.execute("PRAGMA synchronous = FULL")
                    self._connection.execute(_ESTIMATES_SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; the second call does nothing."""
        with _sentences(self._path):
            self._connection.close()

    def facts(self) -> RunFacts:
        """Return what the journal knows about its run."""
        rows = self._rows("SELECT run_id, plan_digest, template_digest, created, session FROM runs")
        if len(rows) != 1:
            raise StoreDamaged(f"{self._path} tells of {len(rows)} runs instead of one", path=self._path)
        run_id, plan_digest, template_digest, created, session = rows[0]
        return RunFacts(
            run_id=run_id,
            plan_digest=plan_digest,
            template_digest=template_digest,
            created=created,
            session=session,
        )

    def next_session(self) -> int:
        """Count one more start of the coordinator and return its number, from 1."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET session = session + 1")
        return self.facts().session

    def add_round(self, record: RoundRecord, *, checkpoint: tuple[str, bytes] | None = None) -> None:
        """Add an attempt at a round, and file name and digest of the checkpoint that it made."""
        with self._transaction() as connection:
            values = tuple(_plain(getattr(record, name)) for name in _ROUND_COLUMNS)
            connection.execute(_insert("rounds", _ROUND_COLUMNS), values)
            if checkpoint is not None:
                connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (record.round, *checkpoint))

    def rounds(self) -> list[RoundRecord]:
        """Return all attempts in order."""
        rows = self._rows(f"SELECT {', '.join(_ROUND_COLUMNS)} FROM rounds ORDER BY round, attempt")
        return [RoundRecord(**dict(zip(_ROUND_COLUMNS, row, strict=True))) for row in rows]

    def last_committed(self) -> int | None:
        """Return the last committed round."""
        found: int | None = self._rows("SELECT max(round) FROM rounds WHERE status = 'committed'")[0][0]
        return found

    def checkpoints(self) -> list[tuple[int, str, bytes]]:
        """Return round, file name and digest of the checkpoints that are kept, the newest first."""
        return self._rows("SELECT round, file, digest FROM checkpoints ORDER BY round DESC")

    def forget_checkpoint(self, round_number: int) -> None:
        """Note that a checkpoint is no longer kept."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM checkpoints WHERE round = ?", (round_number,))

    def add_update(self, record: UpdateRecord, *, estimate: bytes | None = None) -> None:
        """Add a client's answer to a round, and the digest of the EF21 estimate that it makes."""
        values = {name: _plain(getattr(record, name)) for name in _UPDATE_COLUMNS}
        metrics = {name: _plain(value) for name, value in record.metrics.items()}
        values["metrics"] = json.dumps(metrics, sort_keys=True)
        with self._transaction() as connection:
            connection.execute(_insert("updates", _UPDATE_COLUMNS), tuple(values.values()))
            if estimate is not None:
                row = (record.client, record.round, estimate)
                connection.execute("INSERT INTO estimates VALUES (?, ?, ?)", row)

    def forget_update(self, round_number: int, client: str) -> None:
        """Take a client's answer back, and the estimate that it has made."""
        with self._transaction() as connection:
            for table in ("updates", "estimates"):
                condition = "WHERE round = ? AND client = ?"
                connection.execute(f"DELETE FROM {table} {condition}", (round_number, client))

    def estimates(self, client: str) -> list[tuple[int, bytes]]:
        """Return rounds and digests of a client's estimates, the newest last."""
        return self._rows("SELECT round, digest FROM estimates WHERE client = ? ORDER BY round", (client,))

    def known_estimates(self) -> list[tuple[str, int]]:
        """Return clients and rounds of all estimates."""
        return self._rows("SELECT client, round FROM estimates")

    def forget_estimates(self, last_committed: int, *, all_of_them: bool) -> None:
        """Forget all estimates, or those with a newer one of a committed round."""
        condition = (
            "round < (SELECT max(newer.round) FROM estimates AS newer "
            "WHERE newer.client = estimates.client AND newer.round <= ?)"
        )
        with self._transaction() as connection:
            if all_of_them:
                connection.execute("DELETE FROM estimates")
            else:
                connection.execute(f"DELETE FROM estimates WHERE {condition}", (last_committed,))

    def updates(self, round_number: int | None = None) -> list[UpdateRecord]:
        """Return the answers to a round, or to all, by round and client."""
        condition, values = ("", ()) if round_number is None else ("WHERE round = ?", (round_number,))
        columns = ", ".join(_UPDATE_COLUMNS)
        rows = self._rows(f"SELECT {columns} FROM updates {condition} ORDER BY round, client", values)
        dicts = [dict(zip(_UPDATE_COLUMNS, row, strict=True)) for row in rows]
        return [UpdateRecord(**(values | {"metrics": json.loads(values["metrics"])})) for values in dicts]

    def add_traffic(self, round_number: int, traffic: Mapping[tuple[str, str], int]) -> None:
        """Add bytes by direction and kind to those of a round."""
        rows = [(round_number, direction, kind, count) for (direction, kind), count in traffic.items()]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO traffic VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
                rows,
            )

    def traffic(self, round_number: int | None = None) -> dict[tuple[str, str], int]:
        """Return bytes by direction and kind, of a round or of all."""
        condition, values = ("", ()) if round_number is None else ("WHERE round = ?", (round_number,))
        rows = self._rows(
            f"SELECT direction, kind, sum(bytes) FROM traffic {condition} GROUP BY direction, kind", values
        )
        return {(direction, kind): count for direction, kind, count in rows}

    def add_event(self, event: EventRecord) -> None:
        """Add an event."""
        with self._transaction() as connection:
            values = (event.time, event.kind, event.detail)
            connection.execute("INSERT INTO events (time, kind, detail) VALUES (?, ?, ?)", values)

    def events(self) -> list[EventRecord]:
        """Return all events in order."""
        rows = self._rows("SELECT time, kind, detail FROM events ORDER BY id")
        return [EventRecord(time=time, kind=kind, detail=detail) for time, kind, detail in rows]

    def clients(self) -> list[ClientSummary]:
        """Return what each client has done, by name."""
        columns = tuple(field.name for field in fields(ClientSummary))
        # With one max() SQLite takes the bare column `loss` from the row that has the maximum.
        rows = self._rows(
            "SELECT client, count(*), sum(num_samples), sum(num_bytes), sum(received_bytes), sum(train_s), "
            "loss, max(round), 0.0 FROM updates GROUP BY client ORDER BY client"
        )
        seen = dict(self._rows("SELECT client, max(received) FROM updates GROUP BY client"))
        return [
            ClientSummary(**(dict(zip(columns, row, strict=True)) | {"last_seen": seen[row[0]]}))
            for row in rows
        ]

    def _check(self) -> None:
        (application_id,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application_id != _APPLICATION_ID:
            raise StoreDamaged(f"{self._path} is not a journal of Hedgerow", path=self._path)
        if version != JOURNAL_VERSION:
            raise StoreMismatch(
                f"{self._path} was written by another version of Hedgerow: "
                f"its journal has version {version}, this one reads {JOURNAL_VERSION}",
                path=self._path,
            )
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreDamaged(f"{self._path} is damaged: {verdict}", path=self._path)

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with _sentences(self._path):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _sentences(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, a full disk among them.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _plain(value: Any) -> Any:
    # An accuracy computed by numpy is a numpy scalar, which neither SQLite nor JSON takes.
    return value.item() if isinstance(value, np.generic) else value


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        # A mistake of this program says nothing about the file.
        raise
    except sqlite3.OperationalError as error:
        raise StoreError(f"cannot use {path}: {error}; the run is as it was before", path=path) from error
    except sqlite3.IntegrityError as error:
        raise StoreError(f"{path} has this already: {error}", path=path) from error
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path} is damaged: {error}", path=path) from error
