"""The client's side of a run as a pure state machine: messages and times in, actions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hedgerow_codecs import (
    FEEDBACKS,
    CodecError,
    Layout,
    codec_from_config,
)
from hedgerow_edge_client.actions import Action, CancelTraining, Leave, Say, StartTraining
from hedgerow_edge_client.catching_up import CatchUp
from hedgerow_edge_client.contribution import training_of, update_of
from hedgerow_edge_client.device_state import Doing
from hedgerow_edge_client.errors import TrainingDiverged
from hedgerow_edge_client.feedback import estimate_digest, feedback_after, fresh_feedback
from hedgerow_edge_client.holding import Holding
from hedgerow_edge_client.memory import Memory
from hedgerow_edge_client.own_part import OwnPart, frozen_of, is_personal, own_part, seed_of_sampled
from hedgerow_edge_client.requests import TrainResult
from hedgerow_edge_client.upload import Upload
from hedgerow_transport import (
    Accept,
    Ack,
    BlobError,
    BlobRef,
    CoordinatorState,
    Decline,
    Manifest,
    MessageError,
    Offer,
    Presence,
    Publication,
    Rebirth,
    RoundPlan,
    Route,
    TopicError,
    Topics,
    blob_digest,
    decode_down,
    decode_message,
)

# After the run's end the last version is worth a short wait, not a long one.
FAREWELL_S = 5.0
# A flood of garbage is not printed line by line.
MAX_GARBAGE_NOTICES = 20


class ClientSession:
    """Follow a run: keep the model current, train when invited, bring the update home.

    Parameters
    ----------
    client
        This device's name, ``[a-z0-9][a-z0-9_-]{0,31}``.
    layout
        The layout of the task's model; a run with another one is refused.
    topics
        The names of the namespace.
    memory
        Loads and saves the session's snapshot.
    session
        Number of this start of the client; grows by one each time.
    profile
        JSON scalars that describe the device, sent with the birth message.
    jitter
        Returns a number in [0, 1).
    received_bytes
        Returns the PUBLISH bytes that have reached this device since its start.
    heard_at
        Returns when the link last carried anything to here, on the caller's clock.
    once
        Leave when the run is over, instead of waiting for the next one.
    wall_clock
        Returns the Unix time.
    """

    def __init__(
        self,
        client: str,
        *,
        layout: Layout,
        topics: Topics,
        memory: Memory,
        session: int,
        profile: dict[str, str | int | float | bool],
        jitter: Callable[[], float],
        received_bytes: Callable[[], int],
        heard_at: Callable[[], float] = lambda: -math.inf,
        once: bool = False,
        wall_clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.client = client
        self._wall_clock = wall_clock
        self._layout = layout
        self._topics = topics
        self._session = session
        self._profile = profile
        self._received_bytes = received_bytes
        self._reported_bytes = 0
        self._once = once

        self._holding = Holding(memory, layout=layout)
        self._way = CatchUp(
            client,
            layout=layout,
            topics=topics,
            memory=memory,
            jitter=jitter,
            heard_at=heard_at,
            holding=self._holding,
            on_plan=self._take_plan,
            on_arrival=self._proceed,
        )
        self._manifest: Manifest | None = None
        self._upload: Upload | None = None
        self._training_round = 0
        # Round and attempt that this client takes no part in, and what it has told the coordinator about it.
        self._declined = (0, 0)
        self._refusal: Decline | None = None
        self._garbage = 0
        self._leave_at: float | None = None

    # -- what the agent calls -------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called next, on the caller's clock; None when only a message can help."""
        times = [self._way.wake_at, self._leave_at]
        if self._upload is not None:
            times.append(self._upload.wake_at)
        return min((t for t in times if t is not None), default=None)

    @property
    def doing(self) -> Doing:
        """What this client does."""
        number = 0 if self._manifest is None else self._manifest.round
        if self._training_round:
            return Doing(state="training", round=self._training_round)
        if self._upload is not None and self._holding.pending is not None:
            return Doing(state="sending", round=self._holding.pending.round)
        if self._way.is_under_way:
            return Doing(state="fetching", round=number)
        return Doing(state="waiting")

    def presence(self, *, online: bool) -> Publication:
        """Return the birth message, or the one that serves as last will."""
        return self._presence(online=online, profile=self._profile if online else {})

    def farewell(self) -> Publication:
        """Return the word that this device leaves on purpose, with the bytes it has not reported yet."""
        rest = {"received_bytes": self._received_bytes() - self._reported_bytes}
        return self._presence(online=False, profile=rest)

    def _presence(self, *, online: bool, profile: Mapping[str, str | int | float | bool]) -> Publication:
        at = max(0, int(self._wall_clock()))
        message = Presence(client=self.client, session=self._session, online=online, profile=profile, at=at)
        return Publication(topic=self._topics.presence(self.client), payload=message.encode(), retain=True)

    def connected(self, now: float) -> list[Action]:
        """Say who is here; take up again what the lost connection interrupted."""
        self._way.reconnected(now)
        return [self.presence(online=True), *self._repeat(now)]

    def handle(self, topic: str, payload: bytes, *, now: float) -> list[Action]:
        """Take one message; garbage is answered with a warning and has no other effect."""
        try:
            parsed = self._topics.parse(topic)
            if parsed.kind == "manifest":
                return self._on_manifest(decode_message(payload, Manifest), now) if payload else []
            if parsed.kind == "blob" and parsed.digest is not None:
                return self._way.on_chunk(parsed.digest, payload, now)
            if parsed.kind == "down" and parsed.client == self.client:
                return self._on_down(decode_down(payload), now)
            if parsed.kind == "coordinator" and payload:
                return self._on_coordinator(decode_message(payload, CoordinatorState), now)
        except (MessageError, TopicError, BlobError) as error:
            self._garbage += 1
            if self._garbage <= MAX_GARBAGE_NOTICES:
                return [Say(text=f"ignored a message on {topic[:120]}: {error}", level="warning")]
        return []

    def trained(self, result: TrainResult, *, now: float) -> list[Action]:
        """Encode what training changed and offer it."""
        manifest = self._manifest
        if manifest is None or self._way.plan is None or self._training_round != manifest.round:
            return [Say(text="the round closed before this device was done; its work is not used")]
        try:
            pending = update_of(
                result,
                plan=self._way.plan,
                round_number=manifest.round,
                replica=self._holding.replica,
                part=self._own_part(self._way.plan),
                feedback=self._holding.feedback,
            )
        except (CodecError, TrainingDiverged) as error:
            return self.training_failed(f"training has made no update: {error}")
        self._training_round, self._holding.pending = 0, pending
        if is_personal(self._way.plan) and result.proposal is not None:
            self._holding.personal = result.proposal
        self._holding.save()
        return self._begin_upload(now)

    def training_failed(self, reason: str) -> list[Action]:
        """Tell the coordinator that no update will come from here this round."""
        if self._manifest is None or self._training_round == 0:
            return []
        self._declined, self._training_round = (self._training_round, self._manifest.attempt), 0
        self._refusal = Decline(run=self._holding.run, round=self._declined[0], reason=reason[:200])
        return [
            Say(text=f"no update for round {self._declined[0]}: {reason}", level="warning"),
            self._decline(self._refusal),
        ]

    def tick(self, now: float) -> list[Action]:
        """Return what time alone has made due."""
        actions: list[Action] = []
        if self._leave_at is not None and now >= self._leave_at:
            return [self._farewell()]
        actions += self._way.tick(now)
        if self._upload is not None:
            actions += self._upload.tick(now)
        return actions

    # -- the manifest and the model -------------------------------------------------------------------

    def _on_manifest(self, manifest: Manifest, now: float) -> list[Action]:
        before = self._manifest
        if before == manifest:
            return []
        if manifest.layout != self._layout.digest:
            return [
                Leave(
                    reason=(
                        f"the model of this task is not the one of run '{manifest.run}' (layout "
                        f"{self._layout.digest.hex()[:8]} here, {manifest.layout.hex()[:8]} there): "
                        "use the same task file as the one given to hedgerow init"
                    ),
                    failed=True,
                )
            ]
        actions: list[Action] = []
        over = manifest.state in ("finished", "failed")
        training = self._training_round
        if training and (over or manifest.run != self._holding.run or manifest.round != training):
            self._training_round = 0
            actions.append(CancelTraining(reason=f"round {training} is closed"))
        if manifest.run != self._holding.run:
            self._enter_run(manifest.run)
            if not over:
                actions.append(Say(text=f"joined run '{manifest.run}'"))
        if self._refusal is not None and self._declined != (manifest.round, manifest.attempt):
            self._refusal = None
        self._manifest = manifest
        self._leave_at = now + FAREWELL_S if over and self._once else None
        if over and not self._once:
            actions.append(Say(text=f"{self._farewell().reason}; waiting for the next run"))
        return actions + self._way.follow(manifest, now)

    def _take_plan(self, plan: RoundPlan) -> list[Action]:
        """Look at a plan that has come; return the reason to leave where it cannot be carried out."""
        try:
            codec_from_config(plan.codec)
        except CodecError as error:
            return [
                Leave(reason=f"this run's codec is not known here: {error}; update Hedgerow", failed=True)
            ]
        try:
            frozen_of(plan, self._layout)
        except (CodecError, ValueError) as error:
            return [Leave(reason=f"what this run freezes is not known here: {error}", failed=True)]
        self._holding.sampled = seed_of_sampled(plan)
        if plan.feedback in FEEDBACKS and plan.feedback != self._holding.feedback.kind:
            # What was kept, and made from it, says nothing to a run with another kind.
            self._holding.feedback = fresh_feedback(plan.feedback, layout=self._layout)
            self._holding.pending = self._upload = None
        return []

    # -- the update -----------------------------------------------------------------------------------

    def _proceed(self, now: float) -> list[Action]:
        """Do what the manifest asks of a client that holds its version."""
        manifest = self._manifest
        assert manifest is not None
        if manifest.state in ("finished", "failed"):
            self._upload = None
            return [self._farewell()] if self._once else []
        pending = self._holding.pending
        if pending is not None and (manifest.state == "round" or pending.round != manifest.round):
            # What became of an update of a closed round must be known before the next one is made: whether it
            # was used decides which residual goes into that.
            return self._begin_upload(now)
        if manifest.state != "round" or not manifest.invites(self.client):
            return []
        here = (manifest.round, manifest.attempt)
        if manifest.round in (self._training_round, self._holding.done_round) or self._declined == here:
            return []
        assert self._way.plan is not None
        self._training_round = manifest.round
        try:
            request = training_of(
                self._way.plan,
                round_number=manifest.round,
                client=self.client,
                replica=self._holding.replica,
                part=self._own_part(self._way.plan),
            )
        except (CodecError, ValueError) as error:
            return self.training_failed(f"the run's plan cannot be carried out: {error}")
        return [StartTraining(request=request)]

    def _own_part(self, plan: RoundPlan) -> OwnPart:
        held = self._holding
        return own_part(
            plan, client=self.client, profile=self._profile, replica=held.replica, personal=held.personal
        )

    def _begin_upload(self, now: float) -> list[Action]:
        manifest, pending = self._manifest, self._holding.pending
        assert manifest is not None
        assert pending is not None
        if self._upload is not None:
            self._upload.restart()
            return list(self._upload.tick(now))
        offer = Offer(
            run=self._holding.run,
            round=pending.round,
            update=BlobRef(kind="update", digest=blob_digest(pending.frame), size=len(pending.frame)),
            num_samples=pending.num_samples,
            metrics=pending.metrics,
            received_bytes=max(0, self._received_bytes() - self._reported_bytes),
            train_s=pending.train_s,
            chunk_bytes=manifest.chunk_bytes,
            estimate=estimate_digest(self._holding.feedback),
        )
        self._upload = Upload(offer, frame=pending.frame, client=self.client, topics=self._topics)
        return list(self._upload.tick(now))

    def _on_down(self, message: Accept | Ack | Route | Rebirth, now: float) -> list[Action]:
        if isinstance(message, Rebirth):
            return [self.presence(online=True)]
        if isinstance(message, Route):
            return self._way.on_route(message, now)
        if self._upload is None or message.run != self._holding.run or message.digest != self._upload.digest:
            return []
        if isinstance(message, Accept):
            return list(self._upload.accepted(message, now=now))
        return self._on_ack(message, now)

    def _on_ack(self, ack: Ack, now: float) -> list[Action]:
        manifest, held, upload = self._manifest, self._holding, self._upload
        pending = held.pending
        assert manifest is not None
        assert pending is not None
        assert upload is not None
        held.pending = self._upload = None
        before = held.feedback
        held.feedback = feedback_after(ack.status, pending=pending, feedback=before, mask=held.replica.mask)
        if ack.status in ("accepted", "duplicate"):
            held.done_round = pending.round
            self._reported_bytes += upload.received_bytes
            told = Say(text=f"round {pending.round}: update of {len(pending.frame):,} bytes taken")
        else:
            if ack.status == "late":
                held.done_round = pending.round
            elif pending.round == manifest.round and held.feedback is before:
                # Only a change of the feedback is worth another training for this attempt.
                self._declined = (manifest.round, manifest.attempt)
            told = Say(
                text=f"the update of round {pending.round} is not used, the coordinator answered "
                f"'{ack.status}': {ack.reason}",
                level="warning",
            )
        held.save()
        return [told, *(self._proceed(now) if self._way.has_arrived else [])]

    def _decline(self, message: Decline) -> Publication:
        return Publication(topic=self._topics.up(self.client, "decline"), payload=message.encode())

    # -- beginnings and ends --------------------------------------------------------------------------

    def _on_coordinator(self, state: CoordinatorState, now: float) -> list[Action]:
        if state.online:
            return self._repeat(now)
        if not state.message:
            return []
        return [Say(text=f"the coordinator is away ({state.message}); waiting for it")]

    def _repeat(self, now: float) -> list[Action]:
        """Say again what may not have been heard: the link or the coordinator is new."""
        if self._upload is not None:
            self._upload.restart()
        self._way.hurry(now)
        return [] if self._refusal is None else [self._decline(self._refusal)]

    def _enter_run(self, run: str) -> None:
        self._holding.enter(run)
        self._way.forget()
        self._upload = self._manifest = self._refusal = None
        self._declined = (0, 0)

    def _farewell(self) -> Leave:
        manifest = self._manifest
        assert manifest is not None
        outcome = "is finished" if manifest.state == "finished" else f"failed: {manifest.reason}"
        return Leave(reason=f"run '{manifest.run}' {outcome}", failed=manifest.state == "failed")
