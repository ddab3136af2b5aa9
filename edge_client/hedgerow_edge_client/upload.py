"""Bring one update to the coordinator: offer, accept, chunks within a window, application ack."""

from __future__ import annotations

from hedgerow_edge_client.window import Window
from hedgerow_transport import Accept, Offer, Publication, Topics, chunk_count, encode_chunk, indices

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
# While chunks are under way the coordinator tells by itself what came; an offer would only ask it for that.
UNDER_WAY_PAUSE_S = 10.0


class Upload:
    """Offer an update until the coordinator has said what became of it.

    The offer is repeated with growing pauses. An accept tells which chunks have arrived; the coordinator
    sends one as answer to an offer and again while chunks come in. Each makes room in the window for chunks
    that are neither there nor under way. Chunks keep their order, so one that is missing where a later one
    has arrived is lost. So is what was under way when the link went, and what stays unheard of for long. The
    window grows with what arrives soon, and shrinks when something is lost.

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
        # In the order of sending, each with when it was sent.
        self._under_way: dict[int, float] = {}
        self._window = Window(offer.chunk_bytes)
        self._moved_at = 0.0

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
        """Offer at the next tick: connection or coordinator is new, and what was under way is lost."""
        self._pause_s = FIRST_PAUSE_S
        self._offer_at = 0.0
        self._lose()

    def tick(self, now: float) -> list[Publication]:
        """Return the offer when it is due."""
        if now < self._offer_at:
            return []
        if now - self._moved_at >= self._window.patience_s:
            self._lose()
        self._offered = True
        self._wait(now)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return [Publication(topic=self._topics.up(self._client, "offer"), payload=self._offer.encode())]

    def accepted(self, accept: Accept, *, now: float) -> list[Publication]:
        """Return the chunks that the coordinator lacks and the window has room for."""
        if not self._offered:
            return []
        size, step = self._offer.update.size, self._offer.chunk_bytes
        have = set(indices(accept.have))
        self._note_arrivals(have, now=now)
        room = self._window.num_chunks - len(self._under_way)
        wanted = [i for i in range(chunk_count(size, step)) if i not in have and i not in self._under_way]
        chosen = wanted[: max(0, room)]
        if chosen and not self._under_way:
            self._moved_at = now
        self._under_way.update(dict.fromkeys(chosen, now))
        self._wait(now)
        topic = self._topics.up(self._client, "chunk")
        # What is lost is known from the next accept, so the broker's own acknowledgement is of no use.
        return [
            Publication(topic=topic, payload=encode_chunk(i, self._frame[i * step : (i + 1) * step]), qos=0)
            for i in chosen
        ]

    def _note_arrivals(self, have: set[int], *, now: float) -> None:
        sent = list(self._under_way)
        places = [place for place, index in enumerate(sent) if index in have]
        if not places:
            return
        self._moved_at, self._pause_s = now, FIRST_PAUSE_S
        trip_s = now - self._under_way[sent[places[-1]]]
        for index in sent[: places[-1] + 1]:
            del self._under_way[index]
        if len(places) <= places[-1]:
            self._window.lost()
        else:
            self._window.arrived(len(places), trip_s=trip_s)

    def _wait(self, now: float) -> None:
        pause_s = max(self._pause_s, UNDER_WAY_PAUSE_S) if self._under_way else self._pause_s
        self._offer_at = now + pause_s

    def _lose(self) -> None:
        if self._under_way:
            self._window.lost()
        self._under_way.clear()
