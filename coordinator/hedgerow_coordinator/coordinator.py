"""The coordinator's side of a run as a pure state machine: messages and times in, publications out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Frozen, Layout, LayoutError, Mask, encode_seeded, seeded_parameters
from hedgerow_coordinator.broadcast import Broadcast
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.federation import Evaluate, Federation, TrafficReader
from hedgerow_coordinator.intake import MAX_RECEIVED_BYTES
from hedgerow_coordinator.phases.close import Close
from hedgerow_coordinator.phases.gather import Gather
from hedgerow_coordinator.phases.phase import Phase
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import (
    Evidence,
    PruningPolicy,
    initial_mask,
    prunable_groups,
    rescaled,
    synflow_of,
    told_channels,
)
from hedgerow_coordinator.quarantine import QUARANTINE_S, Quarantine
from hedgerow_coordinator.records import RoundRecord
from hedgerow_coordinator.routes import Routes
from hedgerow_coordinator.sampled import first_probabilities
from hedgerow_coordinator.server_model import Steps, keyframe
from hedgerow_coordinator.sizing import weigher
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import (
    BlobError,
    CoordinatorState,
    Decline,
    DeviceState,
    MessageError,
    MessageRefused,
    Need,
    Offer,
    Presence,
    Publication,
    Rebirth,
    Refusals,
    Sync,
    TopicError,
    Topics,
    decode_message,
    is_sealed,
    parse_topic,
)

# A flood of garbage is counted, not printed line by line.
MAX_GARBAGE_NOTICES = 20
# How often what is retained is said again because a device has said its birth again.
REPEAT_PAUSE_S = 30.0
# A window of chunks that come after the round has closed is no reason to put a client off.
NEEDLESS_CHUNK = 0.1


class Coordinator:
    """Lead a run from its plan to its last round.

    Parameters
    ----------
    plan
        What to do.
    layout
        The model's layout, from the template.
    store
        The open run directory; a run that has begun goes on where it was committed.
    first_weights
        Returns the template's own weights, for ``init = "template"``.
    evaluate
        Measures flat weights on the gateway's data; None when there is none.
    read_traffic
        Returns the link's byte counters.
    wall_clock
        Returns the Unix time, for the journal.
    room
        Returns how many bytes of the model the link should be given now.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        layout: Layout,
        store: RunStore,
        first_weights: Callable[[], object],
        evaluate: Evaluate | None,
        read_traffic: TrafficReader,
        wall_clock: Callable[[], float] = time.time,
        room: Callable[[], float] = lambda: math.inf,
    ) -> None:
        frozen, pruning = plan.frozen(layout), plan.policy(layout)
        topics = Topics(plan.transport.namespace)
        broadcast = Broadcast(
            store.blobs,
            topics=topics,
            chunk_bytes=plan.transport.chunk_bytes,
            max_bytes_per_s=plan.transport.max_kbit_s * 125,
            room=room,
        )
        routes = Routes(broadcast)
        latest = store.latest()
        start = partial(_first_weights, plan, layout=layout, first_weights=first_weights)
        # The template is looked at by SynFlow alone.
        by_flow = plan.pruning.prunes and plan.pruning.score == "synflow"
        flow = synflow_of(store.template_bytes(), layout) if by_flow else None
        groups = None
        if plan.pruning.prunes and plan.pruning.channels < 1:
            from hedgerow_export import channel_groups

            found = channel_groups(store.template_bytes())
            groups = prunable_groups(found, layout, protect=pruning.protect)
        sets = told_channels(pruning, template=store.template_bytes, layout=layout)
        if latest is None:
            weights = start()
            known = Evidence(weights=weights, mask=Mask.dense(layout), flow=flow, groups=groups)
            state, steps = _first_state(plan, policy=pruning, known=known)
            routes.add(0, steps)
            state = ServerState(
                version=0,
                mask=state.mask,
                weights=state.weights,
                published=state.published,
                notes=routes.notes(),
            )
            now = wall_clock()
            store.commit_round(RoundRecord(round=0, started=now, ended=now, seconds=0.0), state)
        else:
            state = latest[1]
            routes.recall(state.notes)
        self.resumed_from = None if latest is None else latest[0]
        self._session = store.next_session()
        self._garbage = 0
        self._refusals = Refusals()
        self._repeated_at = float("-inf")
        self._quarantine = Quarantine()
        self._federation = Federation(
            plan=plan,
            layout=layout,
            store=store,
            topics=topics,
            state=state,
            broadcast=broadcast,
            routes=routes,
            pruning=pruning,
            frozen=frozen,
            evaluate=evaluate,
            read_traffic=read_traffic,
            wall_clock=wall_clock,
            first_weights=start,
            flow=flow,
            groups=groups,
            sets=sets,
            weigh=weigher(pruning.goal, template=store.template_bytes()) if pruning.target else None,
        )
        if frozen and latest is None:
            sentence = _frozen_sentence(frozen, policy=pruning)
            self._federation.say(sentence)
            store.event("frozen", sentence)
        failed = sum(r.status == "failed" and r.round == self._federation.round for r in store.rounds())
        self._federation.attempt = failed + 1
        self._phase: Phase | None = None

    # -- what the process loop reads ------------------------------------------------------------------

    @property
    def state(self) -> ServerState:
        """The newest committed version."""
        return self._federation.state

    @property
    def phase(self) -> str:
        """Name of the phase the run is in."""
        return "not begun" if self._phase is None else self._phase.name

    @property
    def done(self) -> bool:
        """Whether the run has ended and the last version has been on offer long enough."""
        return isinstance(self._phase, Close) and self._phase.done

    @property
    def failure(self) -> str | None:
        """Why the run failed, or None."""
        return self._phase.failure if isinstance(self._phase, Close) else None

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, on the caller's clock."""
        times = [None if self.done else self._federation.broadcast.wake_at]
        if self._phase is not None:
            times.append(self._phase.wake_at)
        return min((t for t in times if t is not None), default=None)

    @property
    def num_ignored(self) -> int:
        """Messages that were garbage or wrongly signed, and requests and updates that were refused."""
        dropped = self._garbage + self._quarantine.num_dropped
        return dropped + self._refusals.total + self._federation.refused

    def presence(self, *, online: bool, message: str = "") -> Publication:
        """Return the retained word that the coordinator is there, or (as its will) gone."""
        federation = self._federation
        state = CoordinatorState(
            run=federation.store.run_id,
            session=self._session,
            online=online,
            message=message,
            at=max(0, int(federation.wall_clock())),
        )
        return Publication(topic=federation.topics.coordinator, payload=state.encode(), retain=True)

    def take_publications(self) -> list[Publication]:
        """Return what waits to be published, and forget it."""
        taken, self._federation.outbox = self._federation.outbox, []
        return taken

    def take_notices(self) -> list[str]:
        """Return what there is to tell the person at the gateway, and forget it."""
        taken, self._federation.notices = self._federation.notices, []
        return taken

    # -- what the process loop calls ------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin, or go on after a restart."""
        federation = self._federation
        if federation.state.version >= federation.plan.run.rounds:
            self._go(Close(federation), now)
        else:
            cohort = federation.plan.cohort
            # A run that has begun goes on as between two rounds: a device that died does not hold it up.
            enough = cohort.quorum_of(cohort.min_clients) if federation.state.version > 0 else None
            self._go(Gather(federation, wanted=cohort.min_clients, enough=enough), now)
        federation.outbox += federation.broadcast.tick(now)

    def connected(self) -> None:
        """Say again who is here and where the run stands: the broker may be a new one."""
        self._federation.reachable = True
        self._federation.outbox.append(self.presence(online=True))
        self._federation.announce()

    def disconnected(self) -> None:
        """Note that the link is down: nobody hears what is said."""
        self._federation.reachable = False

    def handle(self, topic: str, payload: bytes, *, now: float) -> None:
        """Take one message. Garbage is counted and named, and has no other effect."""
        try:
            self._dispatch(topic, payload, now)
        except (MessageError, TopicError, BlobError) as error:
            if is_sealed(payload) and not isinstance(error, TopicError):
                self._refuse_sealed(topic)
            else:
                self._garbage += 1
                if self._garbage <= MAX_GARBAGE_NOTICES:
                    self._note(f"ignored a message on {topic[:120]}: {error}")
                if not isinstance(error, TopicError):
                    self._blame(topic, now)
        self.tick(now)

    def hears(self, topic: str, *, now: float) -> bool:
        """Return whether a message on a topic would be looked at; any thread may ask."""
        parsed = parse_topic(topic)
        client = None if parsed is None else parsed.client
        return client is None or not self._quarantine.holds(client, now=now)

    def refuse(self, refusal: MessageRefused, *, topic: str = "", now: float = 0.0) -> None:
        """Note a message that its sender may not say; the first of a sender and cause is told.

        One that stands where a device's birth should be, `topic` says so, has us ask that device for it.
        """
        if refusal.reason not in ("stranger", "revoked") and topic.startswith(self._federation.topics.births):
            self._ask(refusal.sender, now=now)
        if refusal.reason == "revoked":
            # Whatever was its last word, nobody waits for it.
            self._federation.attendance.forget(refusal.sender)
        if self._refusals.note(refusal):
            self._note(f"refused: {refusal}")

    def sum_up_refusals(self) -> None:
        """Tell how many messages were refused; for the end of a process."""
        if self._refusals.total:
            self._note(f"refused since the start: {self._refusals.summary()}")

    def _refuse_sealed(self, topic: str) -> None:
        sender = self._federation.topics.parse(topic).client or "somebody"
        advice = "start this coordinator with --credentials keys/coordinator"
        self.refuse(MessageRefused(sender=sender, reason="signed", advice=advice))

    def _blame(self, topic: str, now: float) -> None:
        client = self._federation.topics.parse(topic).client
        if client is not None:
            self._put_off(client, self._quarantine.note_bad(client, now=now))

    def _put_off(self, client: str, reason: str | None) -> None:
        """Say that a client is not heard for a while, and wait for it no longer."""
        if reason is not None:
            self._federation.attendance.forget(client)
            self._note(f"{client} is not heard for {QUARANTINE_S / 60:.0f} minutes: {reason}")

    def _note(self, sentence: str) -> None:
        self._federation.say(sentence)
        self._federation.store.event("refused", sentence)

    def tick(self, now: float) -> None:
        """Let time pass: let the phase look at the clock, and broadcast chunks that are due."""
        federation = self._federation
        if self._phase is not None:
            following = self._phase.tick(now)
            if following is not None:
                self._go(following, now)
        federation.outbox += federation.broadcast.tick(now)

    def _go(self, phase: Phase | None, now: float) -> None:
        while phase is not None:
            self._phase = phase
            phase = phase.enter(now)

    def _dispatch(self, topic: str, payload: bytes, now: float) -> None:
        federation, phase = self._federation, self._phase
        parsed = federation.topics.parse(topic)
        if parsed.kind == "need":
            if not federation.broadcast.need(decode_message(payload, Need), now=now):
                federation.refused += 1
            return
        if parsed.client is None or phase is None:
            return
        client = parsed.client
        if self._quarantine.holds(client, now=now):
            return
        if parsed.kind != "chunk":
            self._put_off(client, self._quarantine.note_words(client, now=now))
        if parsed.kind in ("sync", "offer", "decline"):
            self._ask(client, now=now)
        if parsed.kind == "presence":
            self._on_presence(client, payload, now)
        elif parsed.kind == "state":
            # For whoever looks at who is there; the rounds do not depend on it.
            decode_message(payload, DeviceState)
        elif parsed.kind == "sync":
            self._on_sync(client, decode_message(payload, Sync), now=now)
        elif parsed.kind == "offer":
            phase.offer(client, decode_message(payload, Offer), now=now)
        elif parsed.kind == "chunk":
            if not phase.chunk(client, payload, now=now):
                self._put_off(client, self._quarantine.note_words(client, NEEDLESS_CHUNK, now=now))
        elif parsed.kind == "decline":
            phase.decline(client, decode_message(payload, Decline))

    def _ask(self, client: str, *, now: float) -> None:
        """Ask a client for its birth message, unless it is there as far as is known, or was just asked."""
        if self._federation.attendance.must_ask(client, now=now):
            topic = self._federation.topics.down(client)
            self._federation.outbox.append(Publication(topic=topic, payload=Rebirth().encode()))

    def _on_presence(self, client: str, payload: bytes, now: float) -> None:
        federation = self._federation
        if not payload:
            federation.attendance.forget(client)
            return
        message = decode_message(payload, Presence)
        if message.client != client:
            raise MessageError(f"{client} speaks as {message.client}")
        was_there = federation.attendance.is_online(client)
        changed = federation.attendance.note(message, now=now)
        if was_there and message.online and not changed and now >= self._repeated_at + REPEAT_PAUSE_S:
            # It was told something else in our place, or its link was lost: what is retained is said again.
            self._repeated_at = now
            self.connected()
        if changed:
            if message.online or was_there:
                federation.say(f"{client} is {'here' if message.online else 'gone'}")
            rest = message.profile.get("received_bytes")
            # A farewell that was retained from an earlier time is not counted again.
            if was_there and not message.online and isinstance(rest, int) and rest > 0:
                rest = min(rest, MAX_RECEIVED_BYTES)
                federation.store.record_traffic(federation.state.version, {("delivered", "farewell"): rest})

    def _on_sync(self, client: str, sync: Sync, *, now: float) -> None:
        federation = self._federation
        route = federation.routes.to(federation.state, version=min(sync.version, federation.state.version))
        topic = federation.topics.down(client)
        federation.outbox.append(Publication(topic=topic, payload=route.encode()))
        federation.broadcast.want(route.steps, now=now)


def _first_weights(plan: Plan, *, layout: Layout, first_weights: Callable[[], object]) -> NDArray[np.float32]:
    """Return the weights that the run begins with, before any mask."""
    if plan.model.init == "seeded":
        try:
            return seeded_parameters(layout, seed=plan.run.seed)
        except LayoutError as error:
            raise SettingError(
                f'cannot be "seeded" for this model: {error}; use init = "template"',
                table="model",
                key="init",
            ) from error
    return np.asarray(first_weights(), dtype=np.float32)


def _frozen_sentence(frozen: Frozen, *, policy: PruningPolicy) -> str:
    total = frozen.layout.num_parameters
    trained = total - frozen.num_parameters
    sentence = (
        f"{len(frozen.names)} of {len(frozen.layout.tensors)} tensors are frozen, "
        f"with {frozen.num_parameters:,} of {total:,} parameters: they are sent once"
    )
    if policy.prunes and not policy.density_is_outcome:
        share = max(0.0, policy.density * total - frozen.num_parameters) / trained
        sentence += (
            f"; a density of {policy.density:g} of all is {share:.3g} of the {trained:,} that are trained"
        )
    return sentence


def _first_state(plan: Plan, *, policy: PruningPolicy, known: Evidence) -> tuple[ServerState, Steps]:
    """Return version 0 and the frames that bring a client there from nothing."""
    weights, layout = known.weights, known.mask.layout
    if policy.policy == "sampled":
        first = first_probabilities(layout)
        begun = ServerState(version=0, mask=Mask.dense(layout), weights=first, published=first.copy())
        return begun, keyframe(begun)
    mask = initial_mask(
        weights,
        layout=layout,
        policy=policy,
        seed=plan.run.seed,
        by_score=plan.model.init != "seeded",
        evidence=known,
    )
    if mask.num_live < layout.num_parameters:
        # Trained weights have the size that they need.
        is_trained = plan.model.init == "pretrained"
        weights = mask.scatter(mask.gather(weights)) if is_trained else rescaled(weights, mask=mask)
    state = ServerState(version=0, mask=mask, weights=weights, published=weights.copy())
    if plan.model.init == "seeded" and mask.num_live == layout.num_parameters:
        return state, (("seed", encode_seeded(layout, seed=plan.run.seed)),)
    return state, keyframe(state)
