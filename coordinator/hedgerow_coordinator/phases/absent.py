"""What a phase does with updates when it collects none."""

from __future__ import annotations

from hedgerow_coordinator.federation import Federation
from hedgerow_transport import Ack, Decline, Offer, Publication


class NoIntake:
    """Answer offers with "late"; a client then drops the update and keeps its residual."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def offer(self, client: str, message: Offer) -> None:
        """Tell the client that no round is open."""
        ack = Ack(
            run=message.run,
            round=message.round,
            digest=message.update.digest,
            status="late",
            reason="no round is open",
        )
        topic = self._federation.topics.down(client)
        self._federation.outbox.append(Publication(topic=topic, payload=ack.encode()))

    def chunk(self, client: str, payload: bytes) -> None:
        """Ignore it: nothing was accepted."""

    def decline(self, client: str, message: Decline) -> None:
        """Ignore it: nothing was asked."""
