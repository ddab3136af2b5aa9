"""Who is there, as told by birth and last-will messages, and who takes part in a round."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from hedgerow_transport import Presence

# A lost link is usually back within this time.
PATIENCE_S = 5.0
# A birth message that was asked for may take so long.
ASK_PAUSE_S = 10.0
# Bounds the memory that strangers' presence messages can take.
MAX_CLIENTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What is remembered of a client's newest presence message; its profile may have 8 kB and is not."""

    session: int
    gone_at: float | None


class Attendance:
    """Keep the newest presence message of every client.

    A last will that arrives after the birth of a newer session carries an older counter and is ignored. A
    birth counts whatever its counter: a device that has lost its state folder counts from 1 again.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Word] = {}
        self._online: tuple[str, ...] | None = ()
        self._asked: dict[str, float] = {}

    def note(self, message: Presence, *, now: float) -> bool:
        """Take a presence message; return whether it changed who is there."""
        client, before = message.client, self._known.get(message.client)
        if before is not None and not message.online and message.session < before.session:
            return False
        if before is None and len(self._known) >= MAX_CLIENTS and not self._make_room():
            return False
        gone_at = None
        if not message.online:
            gone_at = now + PATIENCE_S if before is None or before.gone_at is None else before.gone_at
        word = _Word(session=message.session, gone_at=gone_at)
        self._known[client] = word
        self._online = None
        return (
            before is None or before.session != word.session or self._is_there(before) != self._is_there(word)
        )

    def forget(self, client: str) -> None:
        """Drop a client whose retained message was cleared."""
        self._known.pop(client, None)
        self._online = None

    def must_ask(self, client: str, *, now: float) -> bool:
        """Return whether a client that has just said something must be asked for its birth message.

        It is not there as far as is known: its birth was lost, or a late will has taken its place.
        """
        if self.is_online(client) or now < self._asked.get(client, float("-inf")) + ASK_PAUSE_S:
            return False
        if len(self._asked) >= MAX_CLIENTS:
            self._asked.clear()
        self._asked[client] = now
        return True

    def gone_at(self, client: str) -> float | None:
        """Return from when on a client counts as gone; None while it is there.

        A link that drops comes back within seconds, so a client is waited for a little after its last will.
        """
        word = self._known.get(client)
        return float("-inf") if word is None else word.gone_at

    def is_online(self, client: str) -> bool:
        """Return whether a client is there."""
        word = self._known.get(client)
        return word is not None and self._is_there(word)

    @property
    def online(self) -> tuple[str, ...]:
        """Names of the clients that are there, sorted."""
        if self._online is None:
            self._online = tuple(sorted(name for name, word in self._known.items() if self._is_there(word)))
        return self._online

    @staticmethod
    def _is_there(word: _Word) -> bool:
        return word.gone_at is None

    def _make_room(self) -> bool:
        """Forget somebody who has left; return whether there was one."""
        leaver = next((name for name, word in self._known.items() if not self._is_there(word)), None)
        if leaver is not None:
            del self._known[leaver]
        return leaver is not None


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
