"""The client's side of a run as a pure state machine: messages and times in, actions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import (
    FEEDBACKS,
    CodecError,
    Layout,
    Mask,
    codec_from_config,
)
from hedgerow_edge_client.actions import Action, CancelTraining, Leave, Say, StartTraining
from hedgerow_edge_client.contribution import training_of, update_of
from hedgerow_edge_client.device_state import Doing
from hedgerow_edge_client.errors import ReplicaError, TrainingDiverged
from hedgerow_edge_client.feedback import estimate_digest, feedback_after, fresh_feedback, under_mask
from hedgerow_edge_client.fetch import Fetch
from hedgerow_edge_client.memory import Memory
from hedgerow_edge_client.own_part import OwnPart, frozen_of, is_personal, own_part, seed_of_sampled
from hedgerow_edge_client.replica import NOTHING, Replica
from hedgerow_edge_client.requests import TrainResult
from hedgerow_edge_client.state import Pending, Snapshot
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
    Sync,
    TopicError,
    Topics,
    blob_digest,
    decode_chunk,
    decode_down,
    decode_message,
    keep_parts,
)

# A sync that stays unanswered is repeated; the coordinator may have been restarting.
SYNC_PAUSE_S = 3.0
# After the run's end the last version is worth a short wait, not a long one.
FAREWELL_S = 5.0
# A model that never comes out right is a fault of the run, not of the way.
MAX_WRONG_MODELS = 3
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
        self._memory = memory
        self._session = session
        self._profile = profile
        self._jitter = jitter
        self._received_bytes = received_bytes
        self._reported_bytes = 0
        self._heard_at = heard_at
        self._once = once

        self._run = ""
        self._replica = Replica.empty(layout)
        self._feedback = fresh_feedback("residual", layout=layout)
        self._pending: Pending | None = None
        # The mask of this device's own model, where the run has personal ones.
        self._personal: NDArray[np.bool_] | None = None
        self._sampled: int | None = None
        self._done_round = 0
        snapshot = memory.load()
        if snapshot is not None and snapshot.layout == layout.digest:
            self._restore(snapshot)

        self._manifest: Manifest | None = None
        self._steps: tuple[BlobRef, ...] | None = None
        self._plan: tuple[bytes, RoundPlan] | None = None
        self._fetch: Fetch | None = None
        self._upload: Upload | None = None
        self._training_round = 0
        # Round and attempt that this client takes no part in, and what it has told the coordinator about it.
        self._declined = (0, 0)
        self._refusal: Decline | None = None
        self._garbage = 0
        self._sync_at: float | None = None
        self._leave_at: float | None = None
        self._wrong_models = 0

    # -- what the agent calls -------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called next, on the caller's clock; None when only a message can help."""
        times = [self._sync_at, self._leave_at]
        if self._fetch is not None:
            times.append(self._fetch.wake_at)
        if self._upload is not None:
            times.append(self._upload.wake_at)
        return min((t for t in times if t is not None), default=None)

    @property
    def doing(self) -> Doing:
        """What this client does."""
        number = 0 if self._manifest is None else self._manifest.round
        if self._training_round:
            return Doing(state="training", round=self._training_round)
        if self._upload is not None and self._pending is not None:
            return Doing(state="sending", round=self._pending.round)
        if self._fetch is not None or self._sync_at is not None:
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
        if self._fetch is not None:
            self._fetch.start(now)
        return [self.presence(online=True), *self._repeat(now)]

    def handle(self, topic: str, payload: bytes, *, now: float) -> list[Action]:
        """Take one message; garbage is answered with a warning and has no other effect."""
        try:
            parsed = self._topics.parse(topic)
            if parsed.kind == "manifest":
                return self._on_manifest(decode_message(payload, Manifest), now) if payload else []
            if parsed.kind == "blob" and parsed.digest is not None:
                return self._on_chunk(parsed.digest, payload, now)
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
        if manifest is None or self._plan is None or self._training_round != manifest.round:
            return [Say(text="the round closed before this device was done; its work is not used")]
        try:
            pending = update_of(
                result,
                plan=self._plan[1],
                round_number=manifest.round,
                replica=self._replica,
                part=self._own_part(self._plan[1]),
                feedback=self._feedback,
            )
        except (CodecError, TrainingDiverged) as error:
            return self.training_failed(f"training has made no update: {error}")
        self._training_round, self._pending = 0, pending
        if is_personal(self._plan[1]) and result.proposal is not None:
            self._personal = result.proposal
        self._save()
        return self._begin_upload(now)

    def training_failed(self, reason: str) -> list[Action]:
        """Tell the coordinator that no update will come from here this round."""
        if self._manifest is None or self._training_round == 0:
            return []
        self._declined, self._training_round = (self._training_round, self._manifest.attempt), 0
        self._refusal = Decline(run=self._run, round=self._declined[0], reason=reason[:200])
        return [
            Say(text=f"no update for round {self._declined[0]}: {reason}", level="warning"),
            self._decline(self._refusal),
        ]

    def tick(self, now: float) -> list[Action]:
        """Return what time alone has made due."""
        actions: list[Action] = []
        if self._leave_at is not None and now >= self._leave_at:
            return [self._farewell()]
        if self._sync_at is not None and now >= self._sync_at:
            actions += self._sync(now)
        if self._fetch is not None:
            actions += self._fetch.tick(now)
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
        if training and (over or manifest.run != self._run or manifest.round != training):
            self._training_round = 0
            actions.append(CancelTraining(reason=f"round {training} is closed"))
        if manifest.run != self._run:
            self._enter_run(manifest.run)
            if not over:
                actions.append(Say(text=f"joined run '{manifest.run}'"))
        if self._refusal is not None and self._declined != (manifest.round, manifest.attempt):
            self._refusal = None
        self._manifest = manifest
        self._leave_at = now + FAREWELL_S if over and self._once else None
        if over and not self._once:
            actions.append(Say(text=f"{self._farewell().reason}; waiting for the next run"))
        return actions + self._catch_up(now)

    def _catch_up(self, now: float) -> list[Action]:
        """Collect the plan and the steps that lead to the manifest's version; then go on."""
        manifest = self._manifest
        if manifest is None:
            return []
        refs = [] if self._plan is not None and self._plan[0] == manifest.plan.digest else [manifest.plan]
        self._sync_at, self._steps = None, None
        actions: list[Action] = []
        if self._replica.version == manifest.version and self._replica.digest == manifest.model:
            self._steps = ()
        elif manifest.base_version in (NOTHING, self._replica.version):
            self._steps = manifest.steps
            refs += manifest.steps
        else:
            actions += self._sync(now)
        return actions + self._begin_fetch(refs, now)

    def _sync(self, now: float) -> list[Action]:
        self._sync_at = now + SYNC_PAUSE_S * (1.0 + self._jitter())
        message = Sync(version=self._replica.version, model=self._replica.digest)
        return [Publication(topic=self._topics.up(self.client, "sync"), payload=message.encode())]

    def _on_route(self, route: Route, now: float) -> list[Action]:
        manifest = self._manifest
        if manifest is None or self._sync_at is None or route.version != manifest.version:
            return []
        if route.base_version not in (NOTHING, self._replica.version):
            return []
        self._sync_at = None
        self._steps = route.steps
        refs = [] if self._plan is not None and self._plan[0] == manifest.plan.digest else [manifest.plan]
        return self._begin_fetch([*refs, *route.steps], now)

    def _begin_fetch(self, refs: list[BlobRef], now: float) -> list[Action]:
        manifest = self._manifest
        assert manifest is not None
        self._fetch = Fetch(
            refs,
            chunk_bytes=manifest.chunk_bytes,
            topics=self._topics,
            jitter=self._jitter,
            directory=self._memory.blobs,
            heard_at=self._heard_at,
            earlier=self._fetch,
        )
        self._keep_blobs(refs)
        self._fetch.start(now)
        return self._after_fetch(now)

    def _on_chunk(self, digest: bytes, payload: bytes, now: float) -> list[Action]:
        if self._fetch is None or self._manifest is None or not self._fetch.wants(digest):
            return []
        index, data = decode_chunk(payload, max_bytes=self._manifest.chunk_bytes)
        return self._after_fetch(now) if self._fetch.add(digest, index, data, now=now) else []

    def _after_fetch(self, now: float) -> list[Action]:
        manifest, fetch = self._manifest, self._fetch
        if manifest is None or fetch is None or not fetch.complete or self._steps is None:
            return []
        if self._plan is None or self._plan[0] != manifest.plan.digest:
            plan = decode_message(fetch.data(manifest.plan.digest), RoundPlan)
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
            self._plan = (manifest.plan.digest, plan)
            self._sampled = seed_of_sampled(plan)
            if plan.feedback in FEEDBACKS and plan.feedback != self._feedback.kind:
                # What was kept, and made from it, says nothing to a run with another kind.
                self._feedback = fresh_feedback(plan.feedback, layout=self._layout)
                self._pending = self._upload = None
        self._fetch = None
        if self._steps:
            try:
                replica = self._replica.advanced(
                    [(ref.kind, fetch.data(ref.digest)) for ref in self._steps],
                    version=manifest.version,
                    frozen=frozen_of(self._plan[1], self._layout),
                )
            except (CodecError, ReplicaError) as error:
                return self._start_over(f"a step to version {manifest.version} does not fit: {error}", now)
            if replica.digest != manifest.model:
                return self._start_over(f"version {manifest.version} came out with another digest", now)
            self._replica, self._steps = replica, ()
            self._feedback = under_mask(self._feedback, replica.mask)
            self._save()
            self._keep_blobs([])
        self._wrong_models = 0
        return self._proceed(now)

    def _keep_blobs(self, refs: list[BlobRef]) -> None:
        """Delete all blobs on disk but these and the plan, which a restart would ask for again."""
        if self._memory.blobs is not None and self._manifest is not None:
            keep_parts(self._memory.blobs, [ref.digest for ref in (self._manifest.plan, *refs)])

    def _start_over(self, reason: str, now: float) -> list[Action]:
        """Forget the model and ask for a whole one; give up when that keeps failing."""
        self._wrong_models += 1
        if self._wrong_models >= MAX_WRONG_MODELS:
            return [
                Leave(
                    reason=f"{reason}, {self._wrong_models} times: update Hedgerow here or there", failed=True
                )
            ]
        self._replica = Replica.empty(self._layout)
        return [Say(text=f"{reason}; asking for a whole model", level="warning"), *self._sync(now)]

    # -- the update -----------------------------------------------------------------------------------

    def _proceed(self, now: float) -> list[Action]:
        """Do what the manifest asks of a client that holds its version."""
        manifest = self._manifest
        assert manifest is not None
        if manifest.state in ("finished", "failed"):
            self._upload = None
            return [self._farewell()] if self._once else []
        if self._pending is not None and (manifest.state == "round" or self._pending.round != manifest.round):
            # What became of an update of a closed round must be known before the next one is made: whether it
            # was used decides which residual goes into that.
            return self._begin_upload(now)
        if manifest.state != "round" or not manifest.invites(self.client):
            return []
        here = (manifest.round, manifest.attempt)
        if manifest.round in (self._training_round, self._done_round) or self._declined == here:
            return []
        assert self._plan is not None
        self._training_round = manifest.round
        try:
            request = training_of(
                self._plan[1],
                round_number=manifest.round,
                client=self.client,
                replica=self._replica,
                part=self._own_part(self._plan[1]),
            )
        except (CodecError, ValueError) as error:
            return self.training_failed(f"the run's plan cannot be carried out: {error}")
        return [StartTraining(request=request)]

    def _own_part(self, plan: RoundPlan) -> OwnPart:
        return own_part(
            plan, client=self.client, profile=self._profile, replica=self._replica, personal=self._personal
        )

    def _begin_upload(self, now: float) -> list[Action]:
        manifest, pending = self._manifest, self._pending
        assert manifest is not None
        assert pending is not None
        if self._upload is not None:
            self._upload.restart()
            return list(self._upload.tick(now))
        offer = Offer(
            run=self._run,
            round=pending.round,
            update=BlobRef(kind="update", digest=blob_digest(pending.frame), size=len(pending.frame)),
            num_samples=pending.num_samples,
            metrics=pending.metrics,
            received_bytes=max(0, self._received_bytes() - self._reported_bytes),
            train_s=pending.train_s,
            chunk_bytes=manifest.chunk_bytes,
            estimate=estimate_digest(self._feedback),
        )
        self._upload = Upload(offer, frame=pending.frame, client=self.client, topics=self._topics)
        return list(self._upload.tick(now))

    def _on_down(self, message: Accept | Ack | Route | Rebirth, now: float) -> list[Action]:
        if isinstance(message, Rebirth):
            return [self.presence(online=True)]
        if isinstance(message, Route):
            return self._on_route(message, now)
        if self._upload is None or message.run != self._run or message.digest != self._upload.digest:
            return []
        if isinstance(message, Accept):
            return list(self._upload.accepted(message, now=now))
        return self._on_ack(message, now)

    def _on_ack(self, ack: Ack, now: float) -> list[Action]:
        manifest, pending, upload = self._manifest, self._pending, self._upload
        assert manifest is not None
        assert pending is not None
        assert upload is not None
        self._pending = self._upload = None
        before = self._feedback
        self._feedback = feedback_after(ack.status, pending=pending, feedback=before, mask=self._replica.mask)
        if ack.status in ("accepted", "duplicate"):
            self._done_round = pending.round
            self._reported_bytes += upload.received_bytes
            told = Say(text=f"round {pending.round}: update of {len(pending.frame):,} bytes taken")
        else:
            if ack.status == "late":
                self._done_round = pending.round
            elif pending.round == manifest.round and self._feedback is before:
                # Only a change of the feedback is worth another training for this attempt.
                self._declined = (manifest.round, manifest.attempt)
            told = Say(
                text=f"the update of round {pending.round} is not used, the coordinator answered "
                f"'{ack.status}': {ack.reason}",
                level="warning",
            )
        self._save()
        current = self._fetch is None and self._steps == ()
        return [told, *(self._proceed(now) if current else [])]

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
        if self._sync_at is not None:
            self._sync_at = now
        return [] if self._refusal is None else [self._decline(self._refusal)]

    def _enter_run(self, run: str) -> None:
        self._run = run
        self._replica = Replica.empty(self._layout)
        self._feedback = fresh_feedback("residual", layout=self._layout)
        self._pending = self._upload = self._plan = self._manifest = self._refusal = None
        self._done_round, self._declined, self._wrong_models = 0, (0, 0), 0
        self._personal = self._sampled = None
        self._save()

    def _restore(self, snapshot: Snapshot) -> None:
        self._run = snapshot.run
        mask_live: NDArray[np.bool_] = snapshot.live
        self._replica = Replica(
            version=snapshot.version,
            mask=Mask(layout=self._layout, live=mask_live),
            weights=snapshot.weights,
        )
        self._feedback = FEEDBACKS[snapshot.feedback](snapshot.residual)
        self._done_round = snapshot.done_round
        self._pending = snapshot.pending
        self._personal, self._sampled = snapshot.personal, snapshot.sampled

    def _save(self) -> None:
        self._memory.save(
            Snapshot(
                run=self._run,
                layout=self._layout.digest,
                version=self._replica.version,
                weights=self._replica.weights,
                live=self._replica.mask.live,
                residual=self._feedback.vector,
                feedback=self._feedback.kind,
                done_round=self._done_round,
                pending=self._pending,
                personal=self._personal,
                sampled=self._sampled,
            )
        )

    def _farewell(self) -> Leave:
        manifest = self._manifest
        assert manifest is not None
        outcome = "is finished" if manifest.state == "finished" else f"failed: {manifest.reason}"
        return Leave(reason=f"run '{manifest.run}' {outcome}", failed=manifest.state == "failed")
