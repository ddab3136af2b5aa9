"""What a client session must find again after a power cut, and where it keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hedgerow_edge_client.state import Snapshot


class Memory(Protocol):
    """Where a session keeps what must survive a power cut."""

    @property
    def blobs(self) -> Path | None:
        """Folder for what has come of blobs; None when they are not kept."""
        ...

    def load(self) -> Snapshot | None:
        """Return what was saved last, or None on a first start."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` in place of the one before, whole or not at all."""
        ...
