"""What a phase is."""

from __future__ import annotations

from typing import Protocol

from hedgerow_transport import Decline, Offer


class Phase(Protocol):
    """One state of a run. Each call returns the phase that follows, or None to stay."""

    name: str

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        ...

    def enter(self, now: float) -> Phase | None:
        """Begin."""
        ...

    def offer(self, client: str, message: Offer, *, now: float) -> None:
        """Take an offer."""
        ...

    def chunk(self, client: str, payload: bytes, *, now: float) -> bool:
        """Take a chunk of an update; return whether it was wanted."""
        ...

    def decline(self, client: str, message: Decline) -> None:
        """Take a client's word that it will not answer this round."""
        ...

    def tick(self, now: float) -> Phase | None:
        """Look at the clock, and at what the messages have changed."""
        ...
