"""What a phase does with updates when it collects none."""

from __future__ import annotations

from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.intake import acknowledgement, fate_of
from hedgerow_transport import Decline, Offer


class NoIntake:
    """Tell clients what became of updates of closed rounds; let an update of the round to come wait.

    An offer for the round to come stays unanswered. Its client repeats it when the round opens, so an update
    made before a failed attempt or a restart of the coordinator is not lost.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def offer(self, client: str, message: Offer, *, now: float) -> None:  # noqa: ARG002 -- the protocol has it
        """Answer an offer that no round can take any more."""
        fate = fate_of(message, client=client, federation=self._federation)
        if fate is not None:
            self._federation.outbox.append(
                acknowledgement(message, client=client, federation=self._federation, fate=fate)
            )

    def chunk(self, client: str, payload: bytes, *, now: float) -> bool:  # noqa: ARG002 -- as above
        """Ignore it: nothing was accepted."""
        return False

    def decline(self, client: str, message: Decline) -> None:
        """Ignore it: nothing was asked."""
