"""EF21's estimates on the disk: a file for each client and update, known by the journal's digest of it.

A file is written before the transaction that takes its update into the journal. It counts as the client's
estimate once the update's round is committed: nothing has to be moved in that moment. From then on the one
before is not needed, and the next sweep deletes it.
"""

import contextlib
from pathlib import Path

from hedgerow_coordinator.checked_file import file_digest, read_checked, writing
from hedgerow_coordinator.errors import StoreError
from hedgerow_coordinator.journal import Journal
from hedgerow_transport import sync_directory, write_durably


class EstimateFiles:
    """The estimates of one run.

    Parameters
    ----------
    directory : Path
        Made with the first estimate.
    journal : Journal
    """

    def __init__(self, directory: Path, *, journal: Journal) -> None:
        self._directory = directory
        self._journal = journal

    def digest(self, client: str, *, before: int) -> bytes | None:
        """Return the digest of the client's newest estimate of the rounds before `before`, or None."""
        rows = [row for row in self._journal.estimates(client) if row[0] < before]
        return rows[-1][1] if rows else None

    def load(self, client: str, *, before: int) -> bytes:
        """Return that estimate.

        Raises
        ------
        StoreDamaged
            The file is gone, or not what was written.
        StoreError
            There is none.
        """
        return self._read(client, [row for row in self._journal.estimates(client) if row[0] < before])

    def load_new(self, client: str, *, round_number: int) -> bytes:
        """Return the estimate that the client's update of this round has made; errors as for `load`."""
        return self._read(client, [row for row in self._journal.estimates(client) if row[0] == round_number])

    def write(self, client: str, round_number: int, data: bytes) -> bytes:
        """Put an estimate on the disk and return its digest, which is for the journal.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        path = self._path(client, round_number)
        with writing(path):
            if not self._directory.exists():
                self._directory.mkdir()
                sync_directory(self._directory.parent)
            write_durably(path, data)
        return file_digest(data)

    def sweep(self, *, last_committed: int, over: bool) -> None:
        """Delete what is not needed after a commit; when the run is over, everything.

        Raises
        ------
        OSError, StoreError
            That is no harm: the next sweep does it.
        """
        self._journal.forget_estimates(last_committed, all_of_them=over)
        if not self._directory.exists():
            return
        kept = {self._path(client, number) for client, number in self._journal.known_estimates()}
        for path in self._directory.iterdir():
            if path not in kept:
                path.unlink()
        if over:
            with contextlib.suppress(OSError):
                self._directory.rmdir()

    def _path(self, client: str, round_number: int) -> Path:
        # No client's name has a dot.
        return self._directory / f"{client}.{round_number:05d}"

    def _read(self, client: str, rows: list[tuple[int, bytes]]) -> bytes:
        if not rows:
            raise StoreError(f"there is no estimate of {client} in {self._directory}", path=self._directory)
        round_number, digest = rows[-1]
        return read_checked(self._path(client, round_number), digest=digest)
