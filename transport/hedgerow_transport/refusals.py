"""How many messages were refused, by sender and cause."""

from __future__ import annotations

from collections import Counter

from hedgerow_transport.errors import MessageRefused

# Strangers have as many names as they like.
MAX_COUNTED = 50
OTHERS = "others"


class Refusals:
    """Count refused messages.

    >>> refusals = Refusals()
    >>> [refusals.note(MessageRefused(sender="pi", reason="forged", advice="")) for _ in range(2)]
    [True, False]
    >>> refusals.summary()
    '2 forged (pi)'
    """

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    @property
    def total(self) -> int:
        """How many there were."""
        return self._counted.total()

    def note(self, refusal: MessageRefused) -> bool:
        """Count one; return whether it is the first of its sender and cause, which is worth a sentence."""
        key = (refusal.sender, refusal.reason)
        if key not in self._counted and len(self._counted) >= MAX_COUNTED:
            key = (OTHERS, refusal.reason)
        self._counted[key] += 1
        return self._counted[key] == 1

    def summary(self) -> str:
        """Return all counts in one line; empty when there are none."""
        return ", ".join(f"{num} {why} ({who})" for (who, why), num in sorted(self._counted.items()))
