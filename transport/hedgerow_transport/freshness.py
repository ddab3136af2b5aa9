"""Whether a signed message is new: each kind of topic has its own rule, see transport/README.md."""

from __future__ import annotations

from hashlib import blake2b

from hedgerow_transport.counters import ReplayWindow, SeenCounters
from hedgerow_transport.envelope import Envelope
from hedgerow_transport.topics import ParsedTopic

_PRESENCE = ("presence", "coordinator")
_RETAINED = ("manifest", "delivery", "report")


class Freshness:
    """Say which messages were not there before.

    Parameters
    ----------
    seen : SeenCounters
        What earlier processes have seen; is kept up to date.
    """

    def __init__(self, seen: SeenCounters) -> None:
        self._seen = seen
        self._windows: dict[str, ReplayWindow] = {}

    def take(self, topic: ParsedTopic, envelope: Envelope, *, key: bytes) -> bool:
        """Say whether a message is new, and note it. Its signature has been checked.

        Parameters
        ----------
        topic : ParsedTopic
        envelope : Envelope
        key : bytes
            The public key that it is signed with. A device that has joined again counts anew.
        """
        mark = f"{topic.client or ''} {blake2b(key, digest_size=4).hexdigest()}"
        if topic.kind in _RETAINED:
            return self._take_latest(f"{topic.kind} {mark}", envelope.counter)
        if topic.kind in _PRESENCE:
            return self._take_presence(f"{topic.kind} {mark}", envelope)
        return self._take_once(f"{'down' if topic.kind == 'down' else 'up'} {mark}", envelope.counter)

    def _take_latest(self, source: str, counter: int) -> bool:
        """Retained, it comes again at every connect: the latest one is always good."""
        fresh = counter >= self._seen.highest(source)
        self._seen.note(source, counter)
        return fresh

    def _take_presence(self, source: str, envelope: Envelope) -> bool:
        """Births and farewells as `_take_latest`, but none that a will has ended; a will ends births once.

        A will is signed before the birth that follows it, and each connection has a new one.
        """
        counter, will, ended = envelope.counter, f"will {source}", f"ended {source}"
        latest, latest_will = self._seen.highest(source), self._seen.highest(will)
        if envelope.will:
            again = counter == latest_will and self._seen.highest(ended) == latest
            if counter <= latest_will and not again:
                return False
            self._seen.note(will, counter)
            self._seen.note(ended, latest)
            return True
        if counter < latest or counter <= max(latest_will, self._seen.highest(ended)):
            return False
        self._seen.note(source, counter)
        return True

    def _take_once(self, source: str, counter: int) -> bool:
        window = self._windows.get(source)
        if window is None:
            window = self._windows[source] = ReplayWindow(self._seen.highest(source))
        fresh = window.take(counter)
        self._seen.note(source, counter)
        return fresh
