"""The way up: offers, chunks and acknowledgements of one round, each idempotent by client and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import CodecError, DecodedUpdate, Mask, max_frame_bytes
from hedgerow_coordinator.aggregate import MAX_WEIGHT, Aggregator, HeldAggregator
from hedgerow_coordinator.answers import Answer, AnswerReader
from hedgerow_coordinator.errors import AggregationError, EstimateError
from hedgerow_coordinator.estimates import Estimates
from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.outliers import find_outliers
from hedgerow_coordinator.pruning import Outcomes
from hedgerow_coordinator.records import StoredUpdate, UpdateRecord
from hedgerow_coordinator.server_model import published_digest
from hedgerow_transport import (
    Accept,
    Ack,
    BlobAssembler,
    BlobRef,
    Offer,
    Publication,
    blob_digest,
    decode_chunk,
)

# Updates on their way claim at most this much memory together; a model too large for it gets room for two.
MAX_INCOMING_BYTES = 64 << 20
# After so many bytes a client is told again what has come, which lets it send more.
TOLD_AFTER_BYTES = 32 << 10
# Whoever sends nothing for so long makes room when another one needs it.
IDLE_S = 30.0
# No weight of a working network moves so far in a round; below it, no sum of updates leaves float32.
MAX_CHANGE = 2.0**40
# Devices count their own bytes; what they claim must not overflow the journal's sums.
MAX_RECEIVED_BYTES = 1 << 44

Fate = tuple[str, str]


@dataclass(slots=True)
class _Incoming:
    offer: Offer
    assembler: BlobAssembler
    heard_at: float
    untold_bytes: int = 0


def fate_of(offer: Offer, *, client: str, federation: Federation) -> Fate | None:
    """Return status and reason of an offer that the current round cannot take; None when it may.

    A client whose acknowledgement was lost with the round's end learns that its update was used.
    """
    if offer.run != federation.store.run_id:
        return "refused", f"this is run '{federation.store.run_id}'"
    if offer.round > federation.round:
        return "refused", f"this is round {federation.round}"
    if offer.round == federation.round:
        return None
    used = any(
        record.client == client and record.digest == offer.update.digest
        for record in federation.store.update_records(offer.round)
    )
    return ("duplicate", "") if used else ("late", f"this is round {federation.round}")


def acknowledgement(offer: Offer, *, client: str, federation: Federation, fate: Fate) -> Publication:
    """Return the message that tells a client what became of its offer."""
    status, reason = fate
    if status in ("refused", "late"):
        federation.note_refusal(client, reason if status == "refused" else f"it is late: {reason}")
    ack = Ack(run=offer.run, round=offer.round, digest=offer.update.digest, status=status, reason=reason)
    return Publication(topic=federation.topics.down(client), payload=ack.encode())


def _identity(offer: Offer) -> tuple[BlobRef, int, bytes]:
    """Return what must be the same for chunks of an earlier offer to count for a later one."""
    return offer.update, offer.chunk_bytes, offer.estimate


def _moderate(update: DecodedUpdate) -> DecodedUpdate:
    if not update.largest < MAX_CHANGE:
        raise AggregationError(f"it moves a weight by {update.largest:g}, at most {MAX_CHANGE:g} is allowed")
    return update


def _norm(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.einsum("i,i->", values, values, dtype=np.float64)))


class Intake:
    """Take in the updates of one round, check them, store them, add them to the mean, acknowledge them.

    An update is acknowledged only after it is on disk; what is on disk from an earlier process or attempt is
    added at the start.

    Parameters
    ----------
    federation
        The run.

    Attributes
    ----------
    invited
        Names of those who may offer; None for everybody.
    num_chunks
        Chunks that were wanted and have come.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._mask = federation.state.mask
        self._answers = AnswerReader(
            federation.pruning,
            mask=self._mask,
            published=federation.state.published,
            base=published_digest(federation.state),
            question=federation.question,
            frozen=federation.frozen,
            sets=federation.sets,
            origin=federation.first_weights() if federation.pruning.tier_by == "distance" else None,
        )
        # Sampled masks are all of a size.
        self._outlier_ratio = 0.0 if self._answers.is_sampled else federation.plan.aggregation.outlier_ratio
        self._incoming: dict[str, _Incoming] = {}
        self._bound = max_frame_bytes(federation.layout) * (2 if self._answers.has_two_frames else 1)
        self._anew: set[str] = set()
        self.invited: frozenset[str] | None = None
        self.delivered_bytes = 0
        self.num_chunks = 0
        self._estimates: Estimates | None = None
        if federation.plan.codec.feedback == "ef21":
            self._estimates = Estimates(
                federation.store.estimates, mask=self._mask, round_number=federation.round
            )
        self._sum_up({})

    def _sum_up(self, left_out: Mapping[str, str]) -> None:
        """Add what is on disk, and drop from there the updates of some clients, for a reason each."""
        federation = self._federation
        self._accepted: dict[str, bytes] = {}
        self._norms: dict[str, float] = {}
        self._held = HeldAggregator(self._mask) if self._answers.holds_parts else None
        self.aggregator: Aggregator | HeldAggregator = self._held or Aggregator(self._mask.num_live)
        self.scores = self._answers.score_sum()
        self._outcomes = self._answers.outcome_sum(federation.round)
        for update in federation.store.updates(federation.round):
            client = update.record.client
            if client in left_out:
                reason = f"{client}: {left_out[client]}"
                federation.store.drop_update(update.record, reason=reason, kind="outlier")
                self._accepted[client] = update.record.digest
                continue
            try:
                self._add(update.record, *self._recalled(update))
            except EstimateError as error:
                federation.store.drop_update(update.record, reason=f"{error}: {error.detail}")

    @property
    def mask(self) -> Mask:
        """The weights that the mean is of: the shared mask, or the union of the proposed ones."""
        return self._held.union() if self._held is not None and self._answers.is_vote else self._mask

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean of the updates, ``(mask.num_live,)``.

        Raises
        ------
        AggregationError
            There is no update.
        """
        return self.aggregator.mean() if self._held is None else self._held.mean(self.mask)

    def votes(self) -> NDArray[np.float32] | None:
        """Return the share of the samples behind each weight, ``(num_parameters,)``; None without a vote."""
        return self._held.shares() if self._held is not None and self._answers.is_vote else None

    @property
    def scored(self) -> Mask | None:
        """What the mean of the scores is of: all weights, or in a trial its candidates."""
        return None if self._answers.kind == "losses" else Mask.dense(self._federation.layout)

    def outcomes(self) -> Outcomes | None:
        """Return what the updates say of the weights; None where the policy does not learn from it."""
        return None if self._outcomes is None else self._outcomes.outcomes()

    @property
    def answered(self) -> frozenset[str]:
        """Names of the clients whose update was taken."""
        return frozenset(self._accepted)

    def has_answered(self, client: str) -> bool:
        """Return whether a client's update was taken."""
        return client in self._accepted

    def awaits(self, client: str) -> bool:
        """Return whether a client's update is on its way."""
        return client in self._incoming

    def offer(self, client: str, offer: Offer, *, now: float) -> str | None:
        """Answer an offer: with an accept, or with what became of it.

        Returns
        -------
        str or None
            Why this update cannot be used, when it is refused.
        """
        fate = self._fate(client, offer)
        if fate is not None:
            self._ack(client, offer, fate)
            return self._said(client, fate)
        incoming = self._incoming.get(client)
        if incoming is None or _identity(incoming.offer) != _identity(offer):
            self._incoming.pop(client, None)
            assembler = BlobAssembler(offer.update, chunk_bytes=offer.chunk_bytes)
            if not self._make_room(offer.update.size, now=now):
                # Unanswered, it is offered again; others will be done by then.
                return None
            incoming = self._incoming[client] = _Incoming(offer, assembler, now)
        incoming.heard_at = now
        self._tell(client, incoming)
        return None

    def chunk(self, client: str, payload: bytes, *, now: float) -> str | None:
        """Take one chunk of an accepted offer; the last one completes the update.

        Returns
        -------
        str or None
            Why the update cannot be used, when it is refused.

        Raises
        ------
        hedgerow_transport.MessageError, hedgerow_transport.BlobError
            When the chunk is damaged or does not belong to what was offered.
        """
        incoming = self._incoming.get(client)
        if incoming is None:
            return None
        index, data = decode_chunk(payload, incoming.offer.chunk_bytes)
        self.num_chunks += not incoming.assembler.holds(index)
        # When its digest is wrong the assembler starts again; the client's next offer asks for all of it.
        complete = incoming.assembler.add(index, data)
        incoming.heard_at = now
        incoming.untold_bytes += len(data)
        if not complete:
            if incoming.untold_bytes >= TOLD_AFTER_BYTES:
                self._tell(client, incoming)
            return None
        del self._incoming[client]
        return self._complete(client, incoming.offer, incoming.assembler.data())

    def leave_out_outliers(self) -> dict[str, str]:
        """Take updates that are too large beside the others out of the mean; return whose, and why.

        To be called when the round is to be closed, for only then the others are known. Sums are made again
        from what is on disk, where those updates are no more.
        """
        state = self._federation.state
        found = find_outliers(
            self._norms, ratio=self._outlier_ratio, model_norm=lambda: _norm(state.published)
        )
        if found:
            delivered_bytes = self.delivered_bytes
            self._sum_up(found)
            self.delivered_bytes = delivered_bytes  # those left out have received the round's start, too
        return found

    def _tell(self, client: str, incoming: _Incoming) -> None:
        offer, incoming.untold_bytes = incoming.offer, 0
        accept = Accept(
            run=offer.run, round=offer.round, digest=offer.update.digest, have=incoming.assembler.have()
        )
        topic = self._federation.topics.down(client)
        self._federation.outbox.append(Publication(topic=topic, payload=accept.encode()))

    def _fate(self, client: str, offer: Offer) -> Fate | None:
        fate = fate_of(offer, client=client, federation=self._federation)
        if fate is not None:
            return fate
        if client in self._accepted:
            same = self._accepted[client] == offer.update.digest
            return ("duplicate", "") if same else ("refused", "another update of this round is already taken")
        if self.invited is not None and client not in self.invited:
            return "refused", "this client is not in the round's cohort"
        if offer.update.size > self._bound:
            return "refused", f"{offer.update.size} bytes are more than the {self._bound} an update can have"
        return None if self._estimates is None else self._estimates.fate(client, offer)

    def _said(self, client: str, fate: Fate) -> str | None:
        """Return why a client has no update that can be used; None when there is one, or will be."""
        if fate[0] == "anew" and client not in self._anew:
            self._anew.add(client)
            self._federation.say(f"{client} starts again from an estimate of zero: {fate[1]}")
        return fate[1] if fate[0] == "refused" else None

    def _make_room(self, size: int, *, now: float) -> bool:
        limit = max(MAX_INCOMING_BYTES, 2 * self._bound)
        claimed = sum(incoming.offer.update.size for incoming in self._incoming.values())
        for client, incoming in sorted(self._incoming.items(), key=lambda item: item[1].heard_at):
            if claimed + size <= limit or now - incoming.heard_at < IDLE_S:
                break
            del self._incoming[client]
            claimed -= incoming.offer.update.size
        return claimed + size <= limit

    def _complete(self, client: str, offer: Offer, frame: bytes) -> str | None:
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
            received_bytes=min(offer.received_bytes, MAX_RECEIVED_BYTES),
            loss=offer.metrics.get("loss"),
            metrics=dict(offer.metrics),
        )
        try:
            answer = self._read(frame)
            update, estimate = self._contribution(client, offer, answer.update)
            self._add(record, update, answer)
        except EstimateError as error:
            self._ack(client, offer, ("anew", str(error)))
            return self._said(client, ("anew", f"{error}: {error.detail}"))
        except (CodecError, AggregationError) as error:
            self._ack(client, offer, ("refused", str(error)))
            return f"its update is refused: {error}"
        if federation.store.save_update(record, frame, estimate=estimate) and self._answers.kind:
            parts = {("frames", "update"): answer.update_bytes}
            parts["frames", self._answers.kind] = answer.besides_bytes
            federation.store.record_traffic(record.round, parts)
        self._ack(client, offer, ("accepted", ""))
        return None

    def _read(self, blob: bytes) -> Answer:
        answer = self._answers.read(blob)
        _moderate(answer.update)
        if answer.scores is not None:
            _moderate(answer.scores)
        return answer

    def _contribution(
        self, client: str, offer: Offer, update: DecodedUpdate
    ) -> tuple[DecodedUpdate, bytes | None]:
        """Return what goes into the mean for an update, and the EF21 estimate that is to be kept."""
        if self._estimates is None:
            return update, None
        estimate = self._estimates.moved(client, update, digest=offer.estimate)
        if self._estimates.is_dropped(client, offer.estimate):
            self._federation.store.event(
                "estimate dropped", f"{client} starts from zero in round {self._federation.round}"
            )
        return _moderate(self._estimates.as_update(estimate)), estimate.to_bytes()

    def _recalled(self, update: StoredUpdate) -> tuple[DecodedUpdate, Answer]:
        answer = self._read(update.frame)
        if self._estimates is None:
            return answer.update, answer
        estimate = self._estimates.as_update(self._estimates.recalled(update.record.client))
        return estimate, answer

    def _add(self, record: UpdateRecord, update: DecodedUpdate, answer: Answer) -> None:
        if self._held is None:
            # A sampled mask is one draw, whatever it was learned from.
            weight = 1 if self._answers.is_sampled else record.num_samples
            self.aggregator.add(update, weight=weight)
        else:
            places = self._answers.positions(update)
            self._held.add(update, weight=record.num_samples, positions=places)
        if answer.scores is not None and self.scores is not None:
            self.scores.add(answer.scores, weight=record.num_samples)
        if self._outcomes is not None:
            self._outcomes.add(update, wanted=answer.wanted, weight=record.num_samples)
        self._accepted[record.client] = record.digest
        if self._outlier_ratio > 0:
            self._norms[record.client] = update.norm
        if record.attempt == self._federation.attempt:
            self.delivered_bytes += record.received_bytes

    def _ack(self, client: str, offer: Offer, fate: Fate) -> None:
        self._federation.outbox.append(
            acknowledgement(offer, client=client, federation=self._federation, fate=fate)
        )
