"""A coordinator that is killed at every interesting moment, and started again on its run directory."""

from dataclasses import replace

import numpy as np
import pytest

from hedgerow_coordinator.attendance import PATIENCE_S
from hedgerow_coordinator.estimate_files import EstimateFiles
from hedgerow_coordinator.federation import Federation
from hedgerow_coordinator.journal import Journal
from hedgerow_coordinator.store import RunStore
from hedgerow_transport import Ack, decode_down, parse_topic


class Killed(BaseException):
    """The process is no more."""


def kill_at(monkeypatch, owner, name, *, call, after):
    """Let the process die before or after the `call`-th call of a method, from 1."""
    real, calls = getattr(owner, name), []

    def fatal(*args, **options):
        calls.append(1)
        if len(calls) != call:
            return real(*args, **options)
        if after:
            real(*args, **options)
        raise Killed

    monkeypatch.setattr(owner, name, fatal)


MOMENTS = {
    "an update is here but not stored": (RunStore, "save_update", 5, False),
    "an update is stored but not acknowledged": (RunStore, "save_update", 5, True),
    "all are acknowledged but nothing is committed": (RunStore, "commit_round", 2, False),
    "a round is committed but not published": (RunStore, "commit_round", 2, True),
    "the next round is about to be published": (Federation, "publish_manifest", 3, False),
    "the next round is published": (Federation, "publish_manifest", 3, True),
    "the last round is about to be committed": (RunStore, "commit_round", 3, False),
    "the last round is committed": (RunStore, "commit_round", 3, True),
}


EF21_MOMENTS = {
    "an estimate is about to be written": (EstimateFiles, "write", 5, False),
    "an estimate is written and in no journal": (EstimateFiles, "write", 5, True),
    "the old estimates are about to be deleted": (EstimateFiles, "sweep", 3, False),
    "the old estimates are forgotten but not deleted": (Journal, "forget_estimates", 3, True),
    "the old estimates are deleted": (EstimateFiles, "sweep", 3, True),
}


@pytest.mark.parametrize(
    ("moment", "feedback"),
    [
        *((moment, feedback) for moment in MOMENTS for feedback in ("residual", "ef21")),
        *((moment, "ef21") for moment in EF21_MOMENTS),
    ],
)
def test_a_killed_coordinator_goes_on_and_counts_every_update_once(
    make_plan, make_rig, monkeypatch, moment, feedback
):
    owner, name, call, after = (MOMENTS | EF21_MOMENTS)[moment]
    plan = make_plan(rounds=3, density=0.5, codec="uniform")
    plan = replace(plan, codec=replace(plan.codec, feedback=feedback))
    calm, rig = make_rig(plan), make_rig(plan)
    calm.run()
    rig.start()
    with monkeypatch.context() as context:
        # The first round's commit comes with the Coordinator itself, before `start`.
        kill_at(context, owner, name, call=call, after=after)
        with pytest.raises(Killed):
            rig.to_end()
    rig.restart_coordinator()
    rig.to_end()
    assert rig.coordinator.failure is None
    assert rig.outcome == calm.outcome
    assert rig.counted() == [(number, name) for number in (1, 2, 3) for name in "abc"]
    taken = [
        (sender, message.round, client)
        for sender, p in rig.sent
        if sender == "coordinator" and (parsed := parse_topic(p.topic)).kind == "down"
        for message, client in [(decode_down(p.payload), parsed.client)]
        if isinstance(message, Ack) and message.status == "accepted"
    ]
    assert len(taken) == len(set(taken))
    assert [rig.fake.rounds_of(name) for name in "abc"] == [[1, 2, 3]] * 3
    for name in "abc":
        # After the last round nobody asks any more what became of an update.
        if rig.pending_of(name) is None:
            assert np.array_equal(rig.residual_of(name), calm.residual_of(name))
        assert rig.model_of(name) == rig.published


def test_an_update_offered_while_the_coordinator_gathers_is_not_lost(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, min_clients=3))
    rig.silent = {"b", "c"}
    rig.start()
    rig.until(lambda: rig.pending_of("a") is not None)
    rig.drop("c")
    # Two are there, three are wanted: a's offer meets a coordinator that takes none yet.
    rig.restart_coordinator()
    for _ in range(6):
        rig._deliver()
        for name in "ab":
            rig._carry_out(rig._clients[name], rig.session(name).tick(rig.now))
    assert rig.coordinator.phase == "gather"
    assert rig.pending_of("a") is not None
    rig.silent = set()
    rig.reconnect("c")
    rig.to_end()
    assert rig.counted() == [(1, "a"), (1, "b"), (1, "c")]
    assert rig.fake.rounds_of("a") == [1]


def test_a_device_that_died_holds_up_a_run_that_has_begun_for_a_moment_only(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=3))
    rig.start()
    rig.until_round(2)
    rig.kill("c")
    before = rig.now
    rig.restart_coordinator()
    rig.until(lambda: rig.coordinator.phase != "gather")
    assert rig.now - before == PATIENCE_S
    rig.to_end()
    assert rig.coordinator.failure is None
    assert [record.cohort for record in rig.store.rounds()[2:]] == [2, 2]


def test_a_run_that_has_not_begun_waits_for_all_that_the_plan_wants(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, join_timeout_s=100.0), "ab")
    rig.start()
    rig.to_end()
    assert rig.coordinator.failure == "only 2 of 3 clients came in time"
    assert rig.now == 100.0


def test_the_count_of_failed_attempts_survives_a_restart(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1, deadline_s=50.0, max_failed_attempts=2))
    rig.silent = {"a", "b", "c"}
    rig.start()
    rig.until(lambda: len(rig.store.rounds()) == 2)
    rig.restart_coordinator()
    rig.to_end()
    assert [(r.round, r.attempt, r.status) for r in rig.store.rounds()[1:]] == [
        (1, 1, "failed"),
        (1, 2, "failed"),
    ]
    assert rig.coordinator.failure.startswith("round 1 failed in 2 attempts")


def test_a_run_that_is_over_is_only_said_to_be_over(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1))
    rig.run()
    before = rig.outcome
    rig.restart_coordinator()
    rig.to_end()
    assert rig.coordinator.failure is None
    assert rig.outcome == before
    assert len(rig.fake.done) == 3


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_clients_are_led_around_a_step_that_is_lost(make_plan, make_rig, how):
    rig = make_rig(make_plan(rounds=4))
    rig.start()
    rig.until_round(3)
    for path in (rig.directory / "blobs").iterdir():
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    rig.restart_coordinator()
    rig.join("d")
    rig.to_end()
    assert rig.coordinator.failure is None
    assert rig.model_of("a") == rig.model_of("d") == rig.published
    assert (4, "d") in rig.counted()


def test_blobs_that_nobody_will_be_sent_are_deleted(make_plan, make_rig):
    from hedgerow_coordinator.routes import HISTORY_VERSIONS

    rig = make_rig(make_plan(rounds=HISTORY_VERSIONS + 8))
    rig.start()
    rig.until_round(3)
    rig.join("d")
    rig.until_round(5)
    rig.restart_coordinator()
    rig.to_end()
    # A step for each version that is remembered and the plan; the keyframes of earlier versions are gone.
    assert len(list((rig.directory / "blobs").iterdir())) == HISTORY_VERSIONS + 1
