"""Who is not heard for a while: senders of garbage, and senders of more than anybody needs to say."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# So many bad messages at once, and then one in so many seconds, are taken for accidents.
MAX_BAD = 10
BAD_PAUSE_S = 6.0
# A client says a word or two in a second, and more only when the link or the round is new.
MAX_WORDS = 200
WORD_PAUSE_S = 0.05
QUARANTINE_S = 300.0
# Strangers have as many names as they like; of the rest the one that was quiet for longest is forgotten.
MAX_SENDERS = 2000


@dataclass(slots=True)
class _Bucket:
    """What somebody has done lately, draining with time."""

    level: float = 0.0
    at: float = 0.0

    def add(self, amount: float, *, pause_s: float, now: float) -> float:
        self.level = max(0.0, self.level - (now - self.at) / pause_s) + amount
        self.at = now
        return self.level


@dataclass(slots=True)
class _Sender:
    bad: _Bucket
    words: _Bucket
    held_until: float = float("-inf")


class Quarantine:
    """Count bad and needless messages by sender, and say whose are to be dropped unseen.

    The sender is the name in the topic. Where the broker does not hold devices to their own topics, anybody
    can put a name into quarantine by writing in its place.

    Attributes
    ----------
    num_dropped : int
        Messages dropped so far.
    """

    def __init__(self) -> None:
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self.num_dropped = 0

    def holds(self, sender: str, *, now: float) -> bool:
        """Return whether a message of `sender` is to be dropped, and count it."""
        known = self._senders.get(sender)
        held = known is not None and now < known.held_until
        self.num_dropped += held
        return held

    def note_bad(self, sender: str, *, now: float) -> str | None:
        """Count a message that nobody can use; return why the sender is not heard from now on, if so."""
        known = self._known(sender)
        if known.bad.add(1, pause_s=BAD_PAUSE_S, now=now) <= MAX_BAD:
            return None
        return self._hold(known, f"{MAX_BAD} of its messages were garbage", now=now)

    def note_words(self, sender: str, amount: float = 1.0, *, now: float) -> str | None:
        """Count a message that takes time; return why the sender is not heard from now on, if so."""
        known = self._known(sender)
        if known.words.add(amount, pause_s=WORD_PAUSE_S, now=now) <= MAX_WORDS:
            return None
        return self._hold(known, "it sends more than anybody needs to say", now=now)

    def _known(self, sender: str) -> _Sender:
        known = self._senders.get(sender)
        if known is None:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.popitem(last=False)
            known = self._senders[sender] = _Sender(bad=_Bucket(), words=_Bucket())
        self._senders.move_to_end(sender)
        return known

    @staticmethod
    def _hold(known: _Sender, reason: str, *, now: float) -> str:
        known.held_until = now + QUARANTINE_S
        known.bad, known.words = _Bucket(), _Bucket()
        return reason
