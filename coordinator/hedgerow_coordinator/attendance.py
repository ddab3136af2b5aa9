"""Who is there, as told by birth and last-will messages, and who takes part in a round."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hedgerow_transport import Presence


# A lost link is usually back within this time.
PATIENCE_S = 5.0
# Bounds the memory that strangers' presence messages can take.
MAX_CLIENTS = 100_000


class Attendance:
    """Keep the newest presence message of every client.

    A last will that arrives after the birth of a newer session carries an older counter and is ignored.
    """

    def __init__(self) -> None:
        self._known: dict[str, Presence] = {}
        self._gone_at: dict[str, float] = {}

    def note(self, message: Presence, *, now: float) -> bool:
        """Take a presence message; return whether it changed who is there."""
        before = self._known.get(message.client)
        if before is not None and message.session < before.session:
            return False
        if before is None and len(self._known) >= MAX_CLIENTS:
            return False
        self._known[message.client] = message
        if message.online:
            self._gone_at.pop(message.client, None)
        else:
            self._gone_at.setdefault(message.client, now + PATIENCE_S)
        return before is None or before.online != message.online or before.session != message.session

    def forget(self, client: str) -> None:
        """Drop a client whose retained message was cleared."""
        self._known.pop(client, None)
        self._gone_at.pop(client, None)

    def gone_at(self, client: str) -> float | None:
        """Return from when on a client counts as gone; None while it is there.

        A link that drops comes back within seconds, so a client is waited for a little after its last will.
        """
        if client not in self._known:
            return float("-inf")
        return self._gone_at.get(client)

    @property
    def online(self) -> tuple[str, ...]:
        """Names of the clients that are there, sorted."""
        return tuple(sorted(name for name, message in self._known.items() if message.online))


def choose_cohort(online: Iterable[str], *, size: int, seed: int, round_number: int) -> tuple[str, ...]:
    """Draw `size` clients without replacement; the same arguments give the same cohort on every machine.

    Parameters
    ----------
    online
        Names to choose from.
    size
        How many; 0 or more than there are means everybody.
    seed
        The run's seed.
    round_number
        The round, from 1.
    """
    names = sorted(online)
    if size == 0 or size >= len(names):
        return tuple(names)

    def ticket(name: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{round_number}/{name}".encode(), digest_size=16).digest()

    return tuple(sorted(sorted(names, key=ticket)[:size]))
