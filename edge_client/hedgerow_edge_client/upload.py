"""Bring one update to the coordinator: offer, accept, chunks, application ack."""

from __future__ import annotations

from hedgerow_transport import Accept, Offer, Publication, Topics, chunk_count, encode_chunk, indices

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


class Upload:
    """Offer an update until the coordinator has said what became of it.

    The offer is repeated with growing pauses. An accept tells which chunks already arrived, so what a lost
    connection swallowed is sent again and nothing else. Each offer is good for one accept: one that comes
    twice must not send everything twice.

    Parameters
    ----------
    offer
        What is offered; its digest binds the bytes.
    frame
        The encoded update.
    client
        This client's name.
    topics
        The names of the namespace.
    """

    def __init__(self, offer: Offer, *, frame: bytes, client: str, topics: Topics) -> None:
        self._offer = offer
        self._frame = frame
        self._client = client
        self._topics = topics
        self._pause_s = FIRST_PAUSE_S
        self._offer_at = 0.0
        self._offered = False

    @property
    def digest(self) -> bytes:
        """Digest of the update on its way."""
        return self._offer.update.digest

    @property
    def received_bytes(self) -> int:
        """What the offer reports as received by this device."""
        return self._offer.received_bytes

    @property
    def wake_at(self) -> float:
        """When `tick` wants to be called, on the caller's clock."""
        return self._offer_at

    def restart(self) -> None:
        """Offer at the next tick: the connection or the coordinator is new."""
        self._pause_s = FIRST_PAUSE_S
        self._offer_at = 0.0

    def tick(self, now: float) -> list[Publication]:
        """Return the offer when it is due."""
        if now < self._offer_at:
            return []
        self._offered = True
        self._offer_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return [Publication(topic=self._topics.up(self._client, "offer"), payload=self._offer.encode())]

    def accepted(self, accept: Accept, *, now: float) -> list[Publication]:
        """Return the chunks that the coordinator lacks; nothing for an accept that no offer waits for."""
        if not self._offered:
            return []
        self._offered = False
        size, step = self._offer.update.size, self._offer.chunk_bytes
        have = set(indices(accept.have))
        self._offer_at = now + self._pause_s
        topic = self._topics.up(self._client, "chunk")
        return [
            Publication(topic=topic, payload=encode_chunk(i, self._frame[i * step : (i + 1) * step]))
            for i in range(chunk_count(size, step))
            if i not in have
        ]
