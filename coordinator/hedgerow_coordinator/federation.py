"""What the phases of a run share: the plan, the model, who is there, and what waits to be published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import ChannelSet, Frozen, Layout
from hedgerow_coordinator.attendance import Attendance
from hedgerow_coordinator.broadcast import Broadcast
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import (
    UNDO_MASK,
    PruningPolicy,
    Watch,
    has_too_many_channels,
    react,
    told_parts,
)
from hedgerow_coordinator.routes import Routes
from hedgerow_coordinator.server_model import published_digest
from hedgerow_coordinator.sizing import Weigh
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import Manifest, Publication, RoundPlan, Topics, encode_cohort

if TYPE_CHECKING:
    from hedgerow_export import ChannelGroups

MAX_NOTED_REFUSALS = 20
_FOR_NOTHING = {"codec_id": "deadzone"}
# Flat weights in, (metric value, loss) out; loss is None where the metric has none.
Evaluate = Callable[[NDArray[np.float32]], tuple[float, float | None]]
# Bytes of PUBLISH packets by (direction "sent" or "received", topic kind), since the link was made.
TrafficReader = Callable[[], dict[tuple[str, str], int]]


@dataclass(slots=True, kw_only=True)
class Federation:
    """Hold one run while it goes on; the phases change it, nobody else does."""

    plan: Plan
    layout: Layout
    store: RunStore
    topics: Topics
    state: ServerState
    broadcast: Broadcast
    routes: Routes
    # The plan's policy, with what is frozen among the protected tensors.
    pruning: PruningPolicy
    frozen: Frozen
    evaluate: Evaluate | None
    read_traffic: TrafficReader
    wall_clock: Callable[[], float]
    # The weights of version 0 before any mask, and SynFlow's scores of weights where the template has them.
    first_weights: Callable[[], NDArray[np.float32]]
    flow: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    # What channels masks can take; None where the plan takes none.
    groups: ChannelGroups | None = None
    # Measures the export of a version; None where the plan's target asks for nothing of it.
    weigh: Weigh | None = None
    # The model's channels as the devices are told them; empty where they need not know.
    sets: tuple[ChannelSet, ...] = ()
    attendance: Attendance = field(default_factory=Attendance)
    outbox: list[Publication] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    refused: int = 0
    attempt: int = 1
    # Whether the link to the broker is up.
    reachable: bool = True
    # Who was asked in any attempt at this round: an answer to an earlier one is as good.
    invited: frozenset[str] = frozenset()
    _manifest: Publication | None = None
    _counted: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The round that trains on the current version, from 1."""
        return self.state.version + 1

    @property
    def question(self) -> dict[str, object]:
        """What the devices are asked for beside their updates in this round; nothing in the last one."""
        pruning = self.pruning
        watch, _ = react(
            Watch.of_notes(self.state.notes),
            tolerance=pruning.tolerance,
            reaction=pruning.reaction,
            can_revert=UNDO_MASK in self.state.pruning,
        )
        if self.round >= self.plan.run.rounds or watch.stays:
            return {}
        mask, following = self.state.mask, self.round + 1 - watch.delay
        is_behind = pruning.is_behind(mask, round=following)
        if self.groups is not None and not is_behind:
            share = pruning.channels_at(following)
            is_behind = has_too_many_channels(self.groups, mask, share=share, protect=pruning.protect)
        question = pruning.question_at(following - 1, is_behind=is_behind, seed=self.plan.run.seed)
        if "protect" in question:
            # What is frozen the devices know.
            question["protect"] = list(self.plan.pruning.protect)
        return question

    def note_refusal(self, client: str, reason: str) -> None:
        """Count an update that is refused; the first ones are written down for the reader of a report."""
        self.refused += 1
        if self.refused <= MAX_NOTED_REFUSALS:
            self.store.event("refused", f"an update of {client}: {reason}")

    def say(self, sentence: str) -> None:
        """Tell the person at the gateway."""
        self.notices.append(sentence)

    def round_plan(self) -> RoundPlan:
        """Return what the devices are told about training in this round."""
        training = self.plan.training
        return RoundPlan(
            seed=self.plan.run.seed,
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate_at(min(self.round, self.plan.run.rounds)),
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            proximal_mu=training.proximal_mu,
            max_seconds=training.max_seconds,
            # Nobody trains in a trial: a codec for which nothing costs nothing.
            codec=_FOR_NOTHING if self.question.get("form") == "trial" else self.plan.uplink_at(self.round),
            feedback=self.plan.codec.feedback,
            residual_decay=self.plan.codec.residual_decay,
            pruning=self._told(),
        )

    def _told(self) -> dict[str, object]:
        freeze = self.plan.model.freeze
        told = self.plan.pruning.told(
            self.question, round_number=self.round, first_rate=self.plan.training.learning_rate
        )
        told |= told_parts(self.plan.pruning, sets=self.sets)
        return told | ({"freeze": list(freeze)} if freeze else {})

    def publish_manifest(self, state: str, *, cohort: tuple[str, ...] = (), reason: str = "") -> None:
        """Say where the run stands, and push the blobs that clients of the version before lack."""
        plan_ref = self.broadcast.add("plan", self.round_plan().encode())
        steps, base_version = self.routes.latest(self.state)
        self.broadcast.keep((plan_ref, *steps, *self.routes.in_use()))
        manifest = Manifest(
            run=self.store.run_id,
            state=state,
            round=self.round,
            attempt=self.attempt,
            version=self.state.version,
            layout=self.layout.digest,
            mask=self.state.mask.digest,
            model=published_digest(self.state),
            plan=plan_ref,
            steps=steps,
            base_version=base_version,
            cohort=encode_cohort(cohort),
            deadline_s=self.plan.cohort.deadline_s,
            chunk_bytes=self.plan.transport.chunk_bytes,
            reason=reason,
        )
        # QoS 0 like the chunks: brokers keep the order within one QoS only, and a chunk that comes before its
        # manifest would be asked for again. A lost connection loses nothing: see `announce`.
        self._manifest = Publication(
            topic=self.topics.manifest, payload=manifest.encode(), retain=True, qos=0
        )
        self.announce()
        # What was pushed before is on the devices already, and where nobody is there yet nothing is pushed:
        # whoever lacks a blob asks for it.
        if self.attendance.online:
            fresh = [ref for ref in (plan_ref, *steps) if self.broadcast.first_time(ref)]
            self.broadcast.push(fresh)

    def announce(self) -> None:
        """Publish the manifest, also to a broker that has forgotten it."""
        if self._manifest is not None:
            self.outbox.append(self._manifest)

    def traffic_since_last(self) -> dict[tuple[str, str], int]:
        """Return the bytes by direction and kind since the last call."""
        total = self.read_traffic()
        fresh = {key: num - self._counted.get(key, 0) for key, num in total.items()}
        self._counted = dict(total)
        return {key: num for key, num in fresh.items() if num}
