"""Thompson sampling of masks: draws, posteriors and whole rounds, on exact numbers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan import Plan
from hedgerow_coordinator.pruning import Evidence, Outcomes, PruningPolicy, core_live, learned, sampled
from hedgerow_coordinator.pruning.chance import beta_draws, natural_log
from hedgerow_edge_client import TrainResult
from hedgerow_edge_client.proposals import wished

MakePlan = Callable[..., Plan]
MakeRig = Callable[..., Any]
POLICY: dict[str, Any] = {
    "policy": "thompson",
    "schedule": "constant",
    "budget": "uniform",
    "density": 0.75,
    "regrow": 0.4,
    "grow": "gradient",
    "start_round": 3,
    "end_round": 5,
}
SMALL = Layout(
    tensors=(
        TensorSpec(name="a", shape=(2, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(2,), kind="bias", prunable=False),
    )
)


def test_logarithms_are_those_of_numpy() -> None:
    values = np.concatenate([np.linspace(1e-9, 4, 1001), [2.0**-60, 1.0, 2.0**70, 0.7071067811865476]])
    np.testing.assert_allclose(natural_log(values), np.log(values), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (11, 1), (1, 21), (3.5, 7.25), (900, 100)])
def test_draws_have_the_mean_and_the_variance_of_their_distribution(alpha: float, beta: float) -> None:
    number = 100_000
    draws = beta_draws(np.full(number, float(alpha)), np.full(number, float(beta)), seed=7)
    mean = alpha / (alpha + beta)
    variance = mean * (1 - mean) / (alpha + beta + 1)
    assert abs(draws.mean() - mean) < 5 * (variance / number) ** 0.5
    assert draws.var() == pytest.approx(variance, rel=0.03)
    assert 0 < draws.min() <= draws.max() < 1


def test_draws_are_the_same_for_a_seed() -> None:
    ones = np.ones(4)
    assert beta_draws(ones, ones, seed=7).tolist() == beta_draws(ones, ones, seed=7).tolist()
    assert beta_draws(ones, ones, seed=7).tolist() != beta_draws(ones, ones, seed=8).tolist()
    # Of every machine: only operations that IEEE 754 rounds in one way.
    assert [draw.hex() for draw in beta_draws(ones, 3 * ones, seed=7)] == [
        "0x1.114d3de932ed0p-1",
        "0x1.41cd0afc6fa8dp-2",
        "0x1.74c9850804082p-3",
        "0x1.1ce8aed18d01ap-3",
    ]


def test_the_core_is_all_but_the_open_share() -> None:
    live = np.array([1, 1, 1, 1, 0, 0, 1, 1], np.bool_)
    flat = np.array([4, -3, 2, 1, 9, 9, 5, 5], np.float32)
    mask = Mask(layout=SMALL, live=live)
    for share, expected in ((0.0, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.5, [0, 1]), (0.9, [0, 1])):
        # No more than the two that are pruned can be swapped.
        assert np.flatnonzero(core_live(flat, mask=mask, share=share)).tolist() == expected, share
    assert not core_live(flat, mask=mask, share=0.25, protect=("a",)).any()


def test_posteriors_learn_from_the_mean_model_and_from_each_device() -> None:
    mask = Mask(layout=SMALL, live=np.array([1, 1, 1, 1, 0, 0, 1, 1], np.bool_))
    weights = np.array([4, -3, 2, 1, 0, 0, 5, 5], np.float32)
    policy = PruningPolicy(**(POLICY | {"fusion": 0.25, "influence": 8.0}))
    core = np.array([1.0, 0.5, 0.5, 0.0, 0, 0, 0, 0], np.float32)
    # The mean model's core is the first two; alone, the live weights learn.
    inner = learned({}, Outcomes(core=core), weights=weights, mask=mask, policy=policy, share=0.5)
    outcome = [0.25 + 0.75, 0.25 + 0.375, 0.375, 0.0]
    assert inner["alpha"].tolist() == [*(1 + 8 * x for x in outcome), 1, 1, 1, 1]
    assert inner["beta"].tolist() == [*(9 - 8 * x for x in outcome), 1, 1, 1, 1]
    # With wishes the pruned ones do as well: a quarter of 1/2, and three of what devices want.
    wanted = np.array([0, 0, 0, 0, 1.0, 0.2, 0, 0], np.float32)
    outer = learned(
        inner, Outcomes(core=core, wanted=wanted), weights=weights, mask=mask, policy=policy, share=0.5
    )
    outcome = [2 * x for x in outcome] + [0.125 + 0.75, 0.125 + 0.15]
    rounds = [2, 2, 2, 2, 1, 1]
    np.testing.assert_allclose(outer["alpha"], [*(1 + 8 * x for x in outcome), 1, 1], rtol=1e-6)
    betas = [1 + 8 * (n - x) for n, x in zip(rounds, outcome, strict=True)]
    np.testing.assert_allclose(outer["beta"], [*betas, 1, 1], rtol=1e-6)


def test_the_mask_is_the_best_of_a_draw() -> None:
    mask = Mask(layout=SMALL, live=np.array([1, 1, 1, 0, 0, 0, 1, 1], np.bool_))
    alpha = np.array([1, 500, 500, 1, 1, 500, 1, 1], np.float32)
    beta = np.array([500, 1, 1, 500, 500, 1, 1, 1], np.float32)
    known = Evidence(weights=np.ones(8, np.float32), mask=mask, seed=3, memory={"alpha": alpha, "beta": beta})
    found = sampled(known, policy=PruningPolicy(**POLICY))
    assert np.flatnonzero(found.live).tolist() == [1, 2, 5, 6, 7]
    chances = {
        sampled(
            replace(known, seed=seed, memory={"alpha": np.ones(8), "beta": np.ones(8)}),
            policy=PruningPolicy(**POLICY),
        ).digest
        for seed in range(20)
    }
    assert len(chances) > 5


def test_a_device_names_the_strongest_gradients_of_pruned_weights() -> None:
    live = np.array([1, 1, 1, 0, 0, 0, 1, 1], np.bool_)
    growth = np.array([9, 9, 9, 0.1, -0.3, 0.2, 9, 9], np.float32)
    assert np.flatnonzero(wished(growth, live=live, layout=SMALL, share=0.7, tensors=("a",))).tolist() == [
        4,
        5,
    ]
    assert not wished(growth, live=live, layout=SMALL, share=0.7, tensors=()).any()


def plan_of(make_plan: MakePlan, **policy: Any) -> Plan:
    return replace(make_plan(rounds=5, init="seeded"), pruning=PruningPolicy(**(POLICY | policy)))


def naming(rig: Any, *, round_number: int) -> None:
    """Let all clients want the same pruned weights."""
    dead = np.flatnonzero(~rig.coordinator.state.mask.live)
    names = np.zeros(72, np.float32)
    names[dead[:9]] = 1
    for name in "abc":
        rig.fake.outcomes[name, round_number] = lambda result: replace(result, scores=names)


def literal_core(weights: np.ndarray, live: np.ndarray, number: int) -> np.ndarray:
    core = np.zeros(72)
    core[sorted(np.flatnonzero(live[:48]), key=lambda place: -abs(weights[place]))[:number]] = 1
    return core


def test_whole_rounds_against_a_literal_reference(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan))
    rig.fake.num_samples = {"a": 10, "b": 30, "c": 60}
    rig.start()
    before = rig.coordinator.state
    assert before.mask.lengths == (30, 8, 16)
    alpha, beta = np.ones(72), np.ones(72)
    for number in (1, 2):
        if number == 2:
            naming(rig, round_number=2)
        mask = rig.coordinator.state.mask
        assert mask == before.mask
        rig.until_round(number + 1)
        done = [entry for entry in rig.fake.done if entry[1].round == number]
        mean = np.zeros(72)
        own = np.zeros(72)
        for name, _, result in done:
            assert isinstance(result, TrainResult)
            mean += rig.fake.num_samples[name] / 100 * result.weights.astype(float)
            # 0.4 of 30 weights are open, and all before the first change: 12.
            own += rig.fake.num_samples[name] / 100 * literal_core(result.weights, mask.live, 18)
        outcome = 0.5 * literal_core(mean, mask.live, 18) + 0.5 * own
        arms = mask.live.copy()
        arms[48:] = False
        if number == 2:
            wanted = np.zeros(72)
            wanted[np.flatnonzero(~mask.live)[:9]] = 1
            outcome = np.where(mask.live, outcome, 0.25 + 0.5 * wanted)
            arms[:48] = True
        alpha[arms] += 10 * outcome[arms]
        beta[arms] += 10 * (1 - outcome[arms])
        memory = rig.coordinator.state.pruning
        np.testing.assert_allclose(memory["alpha"], alpha, rtol=1e-5)
        np.testing.assert_allclose(memory["beta"], beta, rtol=1e-5)
    after = rig.coordinator.state
    assert after.mask != before.mask
    assert after.mask.lengths == before.mask.lengths
    assert not after.weights[after.mask.live & ~before.mask.live].any()
    questions = {request.round: request.question for _, request, _ in rig.fake.done}
    assert questions[1] is None
    assert (questions[2].form, questions[2].kind, questions[2].at, questions[2].swap) == (
        "indices",
        "gradient",
        1.0,
        0.4,
    )
    # Indices alone, coded: a header and some bits, thrice.
    assert 0 < rig.store.traffic(2)["frames", "votes"] < 3 * 90
    rig.to_end()
    assert rig.coordinator.failure is None


def test_what_was_learned_survives_a_restart(make_plan: MakePlan, make_rig: MakeRig) -> None:
    outcomes = []
    for restarts in (False, True):
        rig = make_rig(plan_of(make_plan))
        rig.start()
        rig.until_round(2)
        naming(rig, round_number=2)
        if restarts:
            rig.silent.add("c")
            rig.until(lambda rig=rig: len([1 for number, _ in rig.counted() if number == 2]) == 2)
            rig.restart_coordinator()
            rig.silent.clear()
        rig.to_end()
        outcomes.append((rig.outcome, rig.coordinator.state.pruning["alpha"].tobytes()))
    assert outcomes[0] == outcomes[1]


def test_too_many_wishes_are_refused(make_plan: MakePlan, make_rig: MakeRig) -> None:
    rig = make_rig(plan_of(make_plan))
    rig.start()
    rig.until_round(2)
    every = (~rig.coordinator.state.mask.live).astype(np.float32)
    rig.fake.outcomes["a", 2] = lambda result: replace(result, scores=every)
    rig.until_round(3)
    reason = "it names 18 weights of tensor 'a.weight', at most 12 are asked for"
    assert any(reason in notice for notice in rig.notices)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"regrow": 0.0}, 'must be above 0 with policy "thompson"'),
        ({"grow": "update"}, 'must be "gradient" or "random" with policy "thompson"'),
        ({"score": "lamp"}, 'must be "magnitude" with policy "thompson"'),
        ({"schedule": "cubic"}, 'must be "constant" (schedule)'),
        ({"budget": "global"}, '"erk", "er" or "uniform" (budget) with policy "thompson"'),
        ({"tolerance": 0.1}, 'must be 0 with policy "thompson"'),
        ({"fusion": 1.5}, "must be at least 0 and at most 1"),
        ({"influence": 0.0}, "must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        PruningPolicy(**(POLICY | changes))
    assert sentence in str(caught.value)
