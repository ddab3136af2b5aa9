"""Make the next version: mean, prune, code the step, measure, write it down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow_codecs import Mask, codec_from_config
from hedgerow_coordinator.aiming import last_word, measured_of, sized
from hedgerow_coordinator.checkpoint import ServerState, epoch_notes
from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.intake import Intake
from hedgerow_coordinator.moving_average import followed
from hedgerow_coordinator.next_mask import Memory, Pruned, Round, next_mask
from hedgerow_coordinator.phases.absent import NoIntake
from hedgerow_coordinator.phases.phase import Phase
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import Watch
from hedgerow_coordinator.records import RoundRecord, mean_personal
from hedgerow_coordinator.sampled import network_of, posterior
from hedgerow_coordinator.server_model import averaged, stepped
from hedgerow_coordinator.server_optimizer import server_step


class Commit(NoIntake):
    """Turn the updates of a closed round into a committed version; everything happens on entering.

    Parameters
    ----------
    federation
        The run.
    intake
        The closed round's updates.
    attempt
        The record of the attempt that made them.
    """

    name = "commit"
    wake_at = None

    def __init__(self, federation: Federation, *, intake: Intake, attempt: RoundRecord) -> None:
        super().__init__(federation)
        self._intake = intake
        self._attempt = attempt

    def enter(self, now: float) -> Phase | None:  # noqa: ARG002 -- the protocol has it
        """Commit, then begin the next round or close the run."""
        from hedgerow_coordinator.phases.close import Close

        federation = self._federation
        mean, mask = self._intake.mean(), self._intake.mask
        step, moments = server_step(
            mean,
            mask=mask,
            moments=federation.state.optimizer,
            settings=federation.plan.aggregation,
        )
        sampled: Memory = {}
        if federation.plan.pruning.policy == "sampled":
            weights, sampled = posterior(
                mean,
                count=self._intake.aggregator.num_updates,
                memory=federation.state.pruning,
                begins=(federation.round - 1) % federation.plan.pruning.every == 0,
            )
        else:
            weights = averaged(replace(federation.state, mask=mask), step)
        if not all(np.isfinite(values).all() for values in (weights, *moments.values())):
            return Close(federation, failure=f"round {federation.round} would make weights infinite or NaN")
        state = self._next_state(weights, mean=mean, mask=mask)
        state = replace(state, optimizer={**moments, **self._average(state)})
        state = replace(state, pruning={**state.pruning, **sampled})
        final = state.version == federation.plan.run.rounds
        accuracy, loss = self._measure(state, final=final)
        if accuracy is not None and federation.plan.pruning.tolerance > 0:
            state = replace(state, notes={**state.notes, **self._watched(state, accuracy)})
        state = sized(federation, state, accuracy=accuracy)
        traffic = federation.traffic_since_last()
        record = replace(
            self._attempt,
            accuracy=accuracy,
            loss=loss,
            uplink_bytes=sum(num for (way, _), num in traffic.items() if way == "received"),
            broadcast_bytes=sum(num for (way, _), num in traffic.items() if way == "sent"),
            ended=federation.wall_clock(),
        )
        federation.store.record_traffic(record.round, traffic)
        federation.store.commit_round(record, state)
        federation.state, federation.attempt, federation.invited = state, 1, frozenset()
        federation.say(_sentence(record, plan=federation.plan) + self._personal(record.round))
        return self._following(final=final)

    def tick(self, now: float) -> Phase | None:
        """Never reached: entering already leaves."""
        raise AssertionError(f"the commit phase was still there at {now}")

    def _next_state(
        self, weights: NDArray[np.float32], *, mean: NDArray[np.float64], mask: Mask
    ) -> ServerState:
        federation, plan = self._federation, self._federation.plan
        memory, watch = federation.state.pruning, Watch.of_notes(federation.state.notes)
        if federation.round < plan.run.rounds:
            pruned = self._pruned(weights, mean=mean, mask=mask)
            mask, weights, memory, watch = pruned.mask, pruned.weights, pruned.memory, pruned.watch
        else:
            last_word(federation, watch)
        codec = codec_from_config(plan.downlink_at(federation.round))
        state, steps = stepped(federation.state, weights, mask=mask, codec=codec, frozen=federation.frozen)
        federation.routes.add(state.version, steps)
        notes = federation.routes.notes() | epoch_notes(federation.state, state.mask)
        if plan.pruning.is_watched:
            notes |= replace(watch, last=None, sizes={}).to_notes()
        return replace(state, pruning=memory, notes=notes)

    def _average(self, state: ServerState) -> dict[str, NDArray[Any]]:
        before, plan = self._federation.state, self._federation.plan
        return followed(
            state,
            before=before.optimizer,
            decay=plan.aggregation.ema,
            anew=plan.pruning.rewind and state.mask != before.mask,
        )

    def _watched(self, state: ServerState, value: float) -> dict[str, object]:
        """Return the notes once a version is measured; larger is better there."""
        from hedgerow_export import find_metric

        is_better = find_metric(self._federation.plan.evaluate.metric).higher_is_better
        return replace(
            Watch.of_notes(state.notes), last=float(value) if is_better else -float(value)
        ).to_notes()

    def _pruned(self, weights: NDArray[np.float32], *, mean: NDArray[np.float64], mask: Mask) -> Pruned:
        federation, scores = self._federation, self._intake.scores
        said = None
        if scores is not None and scores.num_updates:
            said = scores.mean(self._intake.scored).astype(np.float32)
        pruned = next_mask(
            Round(
                number=federation.round,
                state=federation.state,
                mask=mask,
                weights=weights,
                update=mask.scatter(mean.astype(np.float32)),
                scores=said,
                votes=self._intake.votes(),
                measured=measured_of(federation),
                outcomes=self._intake.outcomes(),
            ),
            policy=federation.pruning,
            seed=federation.plan.run.seed,
            first_weights=federation.first_weights,
            flow=federation.flow,
            groups=federation.groups,
        )
        for kind, sentence in pruned.events:
            federation.store.event(kind, sentence)
            federation.say(sentence)
        return pruned

    def _measure(self, state: ServerState, *, final: bool) -> tuple[float | None, float | None]:
        federation = self._federation
        due = final or state.version % federation.plan.evaluate.every == 0
        if federation.evaluate is None or not due:
            return None, None
        return federation.evaluate(network_of(state, federation.plan).weights)

    def _personal(self, round_number: int) -> str:
        """Return how good the devices' own models are, for the sentence; empty where they have none."""
        mean, count = mean_personal(self._federation.store.update_records(round_number))
        if mean is None:
            return ""
        return f"  mean personal {self._federation.plan.evaluate.metric} {mean:.4f} of {count}"

    def _following(self, *, final: bool) -> Phase:
        from hedgerow_coordinator.phases.close import Close
        from hedgerow_coordinator.phases.collect import Collect
        from hedgerow_coordinator.phases.gather import Gather

        federation = self._federation
        if final:
            return Close(federation)
        wanted = federation.plan.cohort.quorum_of(federation.plan.cohort.min_clients)
        if len(federation.attendance.online) >= wanted:
            return Collect(federation)
        return Gather(federation, wanted=wanted)


def _sentence(record: RoundRecord, *, plan: Plan) -> str:
    measured = "" if record.accuracy is None else f"  {plan.evaluate.metric} {record.accuracy:.4f}"
    return (
        f"round {record.round:>3}/{plan.run.rounds}  {record.updates}/{record.cohort} clients  "
        f"density {record.density:.3f}{measured}  up {record.uplink_bytes:,} B  "
        f"down {record.broadcast_bytes:,} B  {record.seconds:.1f} s"
    )
