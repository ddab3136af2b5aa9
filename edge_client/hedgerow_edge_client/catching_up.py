"""The way to the version that a manifest names: its plan, and the steps from the version that is held."""

from __future__ import annotations

from collections.abc import Callable

from hedgerow_codecs import CodecError, Layout
from hedgerow_edge_client.actions import Action, Leave, Say
from hedgerow_edge_client.errors import ReplicaError
from hedgerow_edge_client.feedback import under_mask
from hedgerow_edge_client.fetch import Fetch
from hedgerow_edge_client.holding import Holding
from hedgerow_edge_client.memory import Memory
from hedgerow_edge_client.own_part import frozen_of
from hedgerow_edge_client.replica import NOTHING, Replica
from hedgerow_transport import (
    BlobRef,
    Manifest,
    Publication,
    RoundPlan,
    Route,
    Sync,
    Topics,
    decode_chunk,
    decode_message,
    keep_parts,
)

# A sync that stays unanswered is repeated; the coordinator may have been restarting.
SYNC_PAUSE_S = 3.0
# A model that never comes out right is a fault of the run, not of the way.
MAX_WRONG_MODELS = 3


class CatchUp:
    """Bring what a client holds to the manifest's version.

    Parameters
    ----------
    client
        This device's name.
    layout
        Of the task's model.
    topics
        The names of the namespace.
    memory
        Where chunks are kept.
    jitter
        Returns a number in [0, 1).
    heard_at
        Returns when the link last carried anything to here.
    holding
        Gets the new model.
    on_plan
        Takes a plan that has come; returns the reason to leave where it cannot be carried out.
    on_arrival
        Called when the manifest's version is held; its actions are passed on.

    Attributes
    ----------
    plan : RoundPlan or None
        That of the manifest, once it has come.
    """

    def __init__(
        self,
        client: str,
        *,
        layout: Layout,
        topics: Topics,
        memory: Memory,
        jitter: Callable[[], float],
        heard_at: Callable[[], float],
        holding: Holding,
        on_plan: Callable[[RoundPlan], list[Action]],
        on_arrival: Callable[[float], list[Action]],
    ) -> None:
        self._client = client
        self._layout = layout
        self._topics = topics
        self._memory = memory
        self._jitter = jitter
        self._heard_at = heard_at
        self._holding = holding
        self._on_plan = on_plan
        self._on_arrival = on_arrival
        self.plan: RoundPlan | None = None
        self._plan_digest = b""
        self._manifest: Manifest | None = None
        self._steps: tuple[BlobRef, ...] | None = None
        self._fetch: Fetch | None = None
        self._sync_at: float | None = None
        self._wrong_models = 0

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called next; None when only a message can help."""
        times = [self._sync_at, None if self._fetch is None else self._fetch.wake_at]
        return min((t for t in times if t is not None), default=None)

    @property
    def is_under_way(self) -> bool:
        """Whether something is being fetched or asked for."""
        return self._fetch is not None or self._sync_at is not None

    @property
    def has_arrived(self) -> bool:
        """Whether the manifest's version and plan are held."""
        return self._fetch is None and self._steps == ()

    def forget(self) -> None:
        """Begin another run: plan and manifest of the one before say nothing any more."""
        self.plan, self._plan_digest, self._manifest = None, b"", None
        self._wrong_models = 0

    def reconnected(self, now: float) -> None:
        """Ask again for what is missing: the link is new."""
        if self._fetch is not None:
            self._fetch.start(now)

    def hurry(self, now: float) -> None:
        """Repeat a question for the way at once, where one is open."""
        if self._sync_at is not None:
            self._sync_at = now

    def tick(self, now: float) -> list[Action]:
        """Return what time alone has made due."""
        actions: list[Action] = []
        if self._sync_at is not None and now >= self._sync_at:
            actions += self._sync(now)
        if self._fetch is not None:
            actions += self._fetch.tick(now)
        return actions

    def follow(self, manifest: Manifest, now: float) -> list[Action]:
        """Collect the plan and the steps that lead to the manifest's version; then go on."""
        self._manifest = manifest
        replica = self._holding.replica
        refs = self._missing_plan(manifest)
        self._sync_at, self._steps = None, None
        actions: list[Action] = []
        if replica.version == manifest.version and replica.digest == manifest.model:
            self._steps = ()
        elif manifest.base_version in (NOTHING, replica.version):
            self._steps = manifest.steps
            refs += manifest.steps
        else:
            actions += self._sync(now)
        return actions + self._begin_fetch(refs, now)

    def on_route(self, route: Route, now: float) -> list[Action]:
        """Take the coordinator's answer to where this client stands."""
        manifest = self._manifest
        if manifest is None or self._sync_at is None or route.version != manifest.version:
            return []
        if route.base_version not in (NOTHING, self._holding.replica.version):
            return []
        self._sync_at = None
        self._steps = route.steps
        return self._begin_fetch([*self._missing_plan(manifest), *route.steps], now)

    def on_chunk(self, digest: bytes, payload: bytes, now: float) -> list[Action]:
        """Take a chunk of a blob; raises `MessageError` or `BlobError` for one that is damaged."""
        if self._fetch is None or self._manifest is None or not self._fetch.wants(digest):
            return []
        index, data = decode_chunk(payload, max_bytes=self._manifest.chunk_bytes)
        return self._after_fetch(now) if self._fetch.add(digest, index, data, now=now) else []

    def _missing_plan(self, manifest: Manifest) -> list[BlobRef]:
        is_held = self.plan is not None and self._plan_digest == manifest.plan.digest
        return [] if is_held else [manifest.plan]

    def _sync(self, now: float) -> list[Action]:
        replica = self._holding.replica
        self._sync_at = now + SYNC_PAUSE_S * (1.0 + self._jitter())
        message = Sync(version=replica.version, model=replica.digest)
        return [Publication(topic=self._topics.up(self._client, "sync"), payload=message.encode())]

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

    def _after_fetch(self, now: float) -> list[Action]:
        manifest, fetch = self._manifest, self._fetch
        if manifest is None or fetch is None or not fetch.complete or self._steps is None:
            return []
        if self._missing_plan(manifest):
            plan = decode_message(fetch.data(manifest.plan.digest), RoundPlan)
            refusal = self._on_plan(plan)
            if refusal:
                return refusal
            self.plan, self._plan_digest = plan, manifest.plan.digest
        assert self.plan is not None
        self._fetch = None
        if self._steps:
            held = self._holding
            try:
                replica = held.replica.advanced(
                    [(ref.kind, fetch.data(ref.digest)) for ref in self._steps],
                    version=manifest.version,
                    frozen=frozen_of(self.plan, self._layout),
                )
            except (CodecError, ReplicaError) as error:
                return self._start_over(f"a step to version {manifest.version} does not fit: {error}", now)
            if replica.digest != manifest.model:
                return self._start_over(f"version {manifest.version} came out with another digest", now)
            held.replica, self._steps = replica, ()
            held.feedback = under_mask(held.feedback, replica.mask)
            held.save()
            self._keep_blobs([])
        self._wrong_models = 0
        return self._on_arrival(now)

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
        self._holding.replica = Replica.empty(self._layout)
        return [Say(text=f"{reason}; asking for a whole model", level="warning"), *self._sync(now)]
