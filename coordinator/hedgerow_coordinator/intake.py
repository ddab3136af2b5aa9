"""The way up: offers, chunks and acknowledgements of one round, each idempotent by client and digest."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow_codecs import CodecError, DecodedUpdate, FrameKind, decode_frame, max_frame_bytes
from hedgerow_coordinator.aggregate import MAX_WEIGHT, Aggregator
from hedgerow_coordinator.errors import AggregationError
from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.records import UpdateRecord
from hedgerow_coordinator.server_model import published_digest
from hedgerow_transport import (
    Accept,
    Ack,
    BlobAssembler,
    BlobError,
    Offer,
    Publication,
    blob_digest,
    decode_chunk,
)


@dataclass(frozen=True, slots=True)
class _Incoming:
    offer: Offer
    assembler: BlobAssembler


class Intake:
    """Take in the updates of one round, check them, store them, add them to the mean, acknowledge them.

    An update is acknowledged only after it is on disk; what is on disk from an earlier process or attempt is
    added at the start.

    Parameters
    ----------
    federation
        The run.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._mask = federation.state.mask
        self._base = published_digest(federation.state)
        self._incoming: dict[str, _Incoming] = {}
        self._accepted: dict[str, bytes] = {}
        self.aggregator = Aggregator(self._mask.num_live)
        self.delivered_bytes = 0
        for update in federation.store.updates(federation.round):
            self._add(update.record, self._decode(update.frame))

    @property
    def answered(self) -> frozenset[str]:
        """Names of the clients whose update is in the mean."""
        return frozenset(self._accepted)

    def offer(self, client: str, offer: Offer) -> None:
        """Answer an offer: with an accept, or with what became of it."""
        reason = self._objection(client, offer)
        if reason is not None:
            self._ack(client, offer, *reason)
            return
        incoming = self._incoming.get(client)
        if incoming is None or incoming.offer.update.digest != offer.update.digest:
            incoming = _Incoming(offer, BlobAssembler(offer.update, chunk_bytes=offer.chunk_bytes))
            self._incoming[client] = incoming
        accept = Accept(
            run=offer.run, round=offer.round, digest=offer.update.digest, have=incoming.assembler.have()
        )
        self._send(client, accept.encode())

    def chunk(self, client: str, payload: bytes) -> None:
        """Take one chunk of an accepted offer; the last one completes the update."""
        incoming = self._incoming.get(client)
        if incoming is None:
            return
        index, data = decode_chunk(payload, incoming.offer.chunk_bytes)
        try:
            complete = incoming.assembler.add(index, data)
        except BlobError as error:
            # The assembler starts again; the client's next offer asks for all of it.
            self._federation.say(f"{client}: {error}; waiting for it to come again")
            return
        if complete:
            del self._incoming[client]
            self._complete(client, incoming.offer, incoming.assembler.data())

    def _objection(self, client: str, offer: Offer) -> tuple[str, str] | None:
        federation = self._federation
        if offer.run != federation.store.run_id:
            return "refused", f"this is run '{federation.store.run_id}'"
        if offer.round != federation.round:
            return ("late" if offer.round < federation.round else "refused"), f"this is round {federation.round}"
        if client in self._accepted:
            same = self._accepted[client] == offer.update.digest
            return ("duplicate", "") if same else ("refused", "another update of this round is already taken")
        bound = max_frame_bytes(federation.layout)
        if offer.update.size > bound:
            return "refused", f"{offer.update.size} bytes are more than the {bound} an update can have"
        return None

    def _complete(self, client: str, offer: Offer, frame: bytes) -> None:
        federation = self._federation
        record = UpdateRecord(
            round=federation.round,
            attempt=federation.attempt,
            client=client,
            digest=blob_digest(frame),
            num_bytes=len(frame),
            num_samples=min(offer.num_samples, MAX_WEIGHT),
            received=federation.wall_clock(),
            train_s=offer.train_s,
            received_bytes=offer.received_bytes,
            loss=offer.metrics.get("loss"),
            metrics=dict(offer.metrics),
        )
        try:
            self._add(record, self._decode(frame))
        except (CodecError, AggregationError) as error:
            federation.refused += 1
            federation.say(f"{client}: update refused: {error}")
            self._ack(client, offer, "refused", str(error)[:200])
            return
        federation.store.save_update(record, frame)
        self._ack(client, offer, "accepted")

    def _decode(self, frame: bytes) -> DecodedUpdate:
        return decode_frame(frame, kind=FrameKind.UPDATE, mask=self._mask, base=self._base)

    def _add(self, record: UpdateRecord, update: DecodedUpdate) -> None:
        self.aggregator.add(update, weight=record.num_samples)
        self._accepted[record.client] = record.digest
        self.delivered_bytes += record.received_bytes

    def _ack(self, client: str, offer: Offer, status: str, reason: str = "") -> None:
        ack = Ack(run=offer.run, round=offer.round, digest=offer.update.digest, status=status, reason=reason)
        self._send(client, ack.encode())

    def _send(self, client: str, payload: bytes) -> None:
        topic = self._federation.topics.down(client)
        self._federation.outbox.append(Publication(topic=topic, payload=payload))
