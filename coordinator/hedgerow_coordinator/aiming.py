"""Towards a target: what is measured of a round and of a version, and what the journal tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hedgerow_codecs import Mask
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.pruning import PruningPolicy, Watch
from hedgerow_coordinator.pruning.target import aim, target_event

if TYPE_CHECKING:
    from hedgerow_coordinator.federation import Federation


def towards_target(
    watch: Watch, *, policy: PruningPolicy, measured: Mapping[str, float], mask: Mask, round_number: int
) -> tuple[Watch, tuple[tuple[str, str], ...]]:
    """Return the watch after what was measured of a round, and the events that tell of it.

    Parameters
    ----------
    watch : Watch
        After `react`.
    policy : PruningPolicy
    measured : Mapping[str, float]
        Of the round's mask.
    mask : Mask
        That mask.
    round_number : int
        The round, from 1.
    """
    at_end = round_number - watch.delay >= policy.end_round
    watch, action = aim(
        watch, target=policy.goal, measured=measured, may_fall=not watch.stopped and not at_end
    )
    why = "the schedule is at its end"
    if watch.stopped:
        why = "a change was taken back because of the metric, so that there is no other"
    return watch, target_event(action, target=policy.goal, measured=measured, density=mask.density, why=why)


def measured_of(federation: Federation) -> dict[str, float]:
    """Return what the target of a run bounds, as measured of the current version and of its round."""
    goal = federation.pruning.goal
    if goal is None:
        return {}
    records = federation.store.update_records(federation.round)
    updates = [(record.client, record.num_bytes) for record in records]
    return {**Watch.of_notes(federation.state.notes).sizes, **goal.uplink_of(updates)}


def sized(federation: Federation, state: ServerState, *, accuracy: float | None) -> ServerState:
    """Return a new version with what is measured of its export among its notes.

    Under the mask before, with a target that the weights' values do not change, it is not measured again: a
    clock would say something else each time.
    """
    goal, weigh = federation.pruning.goal, federation.weigh
    if goal is None or weigh is None:
        return state
    before = Watch.of_notes(federation.state.notes).sizes
    if before and state.mask == federation.state.mask and goal.zip_bytes is None:
        sizes = before
    else:
        # Only a run that measures its export needs what makes it.
        from hedgerow_export import ExportError

        facts = {"run": federation.store.run_id, "round": str(state.version)}
        if accuracy is not None:
            facts[federation.plan.evaluate.metric] = f"{accuracy:.6g}"
        try:
            sizes = weigh(state, facts)
        except ExportError as error:
            sizes = {}
            _tell(federation, (("target not measured", f"the export of version {state.version}: {error}"),))
    notes = replace(Watch.of_notes(state.notes), sizes=sizes).to_notes()
    return replace(state, notes={**state.notes, **notes})


def last_word(federation: Federation, watch: Watch) -> None:
    """Tell at the end of a run whether the target is met, where that has not been told."""
    goal, mask = federation.pruning.goal, federation.state.mask
    measured = measured_of(federation)
    if goal is None:
        return
    if goal.is_met(measured) is None:
        counted = f"no update of '{goal.devices}' has come" if goal.uplink_bytes else "nothing was measured"
        _tell(federation, (("target missed", f"{counted} in the last round, at density {mask.density:.4g}"),))
        return
    _, action = aim(watch, target=goal, measured=measured, may_fall=False)
    why = "the run is over"
    if watch.held:
        why = "the density was held because of the metric when the run ended"
    _tell(federation, target_event(action, target=goal, measured=measured, density=mask.density, why=why))


def _tell(federation: Federation, events: tuple[tuple[str, str], ...]) -> None:
    for kind, sentence in events:
        federation.store.event(kind, sentence)
        federation.say(sentence)
