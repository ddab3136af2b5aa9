"""How often the mask has changed, which an exported model tells."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hedgerow_coordinator import mask_epoch
from hedgerow_coordinator.plan import Plan

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]


def test_the_epoch_counts_the_changes_of_the_mask(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(make_plan(rounds=6, density=0.5, end_round=4))
    rig.start()
    masks, epochs = [rig.coordinator.state.mask], [mask_epoch(rig.coordinator.state)]
    for number in range(2, 7):
        rig.until_round(number)
        masks.append(rig.coordinator.state.mask)
        epochs.append(mask_epoch(rig.coordinator.state))
    wanted = [0]
    for before, after in pairwise(masks):
        wanted.append(wanted[-1] + (before != after))
    assert epochs == wanted
    assert 2 <= epochs[-1] < 6
    # A restart goes on counting.
    rig.restart_coordinator()
    assert mask_epoch(rig.coordinator.state) == epochs[-1]


def test_a_run_that_an_older_version_began_has_no_epoch(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(make_plan(rounds=2))
    rig.start()
    rig.to_end()
    assert mask_epoch(rig.coordinator.state) == 0
    assert mask_epoch(replace(rig.coordinator.state, notes={})) is None
