"""Masks that grow: laws of every policy, RigL on small numbers, votes, PruneFL's greedy choice."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.pruning import Evidence, PruningPolicy, initial_mask, prune
from hedgerow_coordinator.pruning.adaptive import adaptive_live, prunable_share, weight_times


def layout() -> Layout:
    return Layout(
        tensors=(
            TensorSpec(name="a.weight", shape=(4, 5), kind="linear", prunable=True),
            TensorSpec(name="a.bias", shape=(4,), kind="bias", prunable=False),
            TensorSpec(name="b.weight", shape=(4, 4), kind="linear", prunable=True),
            TensorSpec(name="c.weight", shape=(3, 4), kind="linear", prunable=True),
        )
    )


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def evidence(seed: int, mask: Mask, **parts: object) -> Evidence:
    rng = np.random.default_rng(seed)

    def vector() -> np.ndarray:
        return rng.standard_normal(layout().num_parameters).astype(np.float32)

    weights = np.where(mask.live, vector(), np.float32(0))
    update = np.where(mask.live, vector(), np.float32(0))
    known = {"movement": vector(), "device": vector(), "update": update, "seed": seed, "round": seed}
    return Evidence(weights=weights, mask=mask, **(known | parts))  # type: ignore[arg-type]


POLICIES = st.builds(
    PruningPolicy,
    score=st.sampled_from(["magnitude", "lamp", "movement", "update", "random", "row-norm", "fisher"]),
    budget=st.sampled_from(["erk", "er", "uniform", "global", "lamp"]),
    schedule=st.sampled_from(["cubic", "geometric", "cosine", "one-shot", "constant"]),
    density=st.sampled_from([0.4, 0.5, 0.6]),
    initial_density=st.sampled_from([0.6, 1.0]),
    start_round=st.just(2),
    end_round=st.integers(3, 6),
    every=st.integers(1, 2),
    protect=st.sampled_from([(), ("c.weight",)]),
    regrow=st.sampled_from([0.0, 0.1, 0.5]),
    grow=st.sampled_from(["update", "random"]),
)


@settings(deadline=None)
@given(policy=POLICIES, seed=st.integers(0, 2**32))
def test_laws_of_every_policy(policy: PruningPolicy, seed: int) -> None:
    spec = layout()
    policy.check(spec)
    first = np.random.default_rng(seed).standard_normal(spec.num_parameters).astype(np.float32)
    mask = initial_mask(first, layout=spec, policy=policy, seed=seed)
    for number in range(2, 8):
        known = evidence(number, mask)
        after = prune(known.weights, mask=mask, policy=policy, round=number, evidence=known)
        again = prune(known.weights.copy(), mask=mask, policy=policy, round=number, evidence=known)
        assert after == again
        wanted = math.floor(policy.density_at(number) * spec.num_parameters + 1e-6)
        # To the weight; a mask is thinned, never filled, to its budget.
        assert after.num_live == min(wanted, mask.num_live)
        assert after.lengths[1] == 4
        if policy.protect:
            assert after.lengths[3] == 12
        assert min(after.lengths) > 0
        grown = after.live & ~mask.live
        if policy.regrow_at(number) == 0:
            assert not grown.any()
        mask = after


def test_rigl_on_small_numbers() -> None:
    spec = Layout(tensors=(TensorSpec(name="w", shape=(2, 4), kind="linear", prunable=True),))
    mask = Mask(layout=spec, live=np.array([1, 1, 1, 1, 0, 0, 0, 0], np.bool_))
    known = Evidence(
        weights=array(4, -1, 3, -2, 0, 0, 0, 0), mask=mask, device=array(9, 9, 9, 9, 1, -5, 3, -4)
    )
    policy = PruningPolicy(
        schedule="constant",
        density=0.5,
        budget="uniform",
        regrow=0.5,
        grow="gradient",
        start_round=2,
        end_round=6,
    )
    assert policy.regrow_at(2) == 0.5
    assert policy.regrow_at(4) == 0.25
    assert [policy.regrow_at(number) for number in (1, 6, 7)] == [0, 0, 0]
    # Half of four go, the weakest: -1 and -2. The largest |g| of those that were pruned come: -5 and -4.
    after = prune(known.weights, mask=mask, policy=policy, round=2, evidence=known)
    assert after.live.astype(int).tolist() == [1, 0, 1, 0, 0, 1, 0, 1]
    # A quarter later: one goes, one comes. At the end none.
    later = prune(known.weights, mask=mask, policy=policy, round=4, evidence=known)
    assert later.live.astype(int).tolist() == [1, 0, 1, 1, 0, 1, 0, 0]
    assert prune(known.weights, mask=mask, policy=policy, round=6, evidence=known) is mask


def test_what_was_dropped_comes_back_only_where_nothing_else_can() -> None:
    spec = Layout(tensors=(TensorSpec(name="w", shape=(1, 4), kind="linear", prunable=True),))
    mask = Mask(layout=spec, live=np.array([1, 1, 1, 0], np.bool_))
    known = Evidence(weights=array(3, 1, 2, 0), mask=mask, device=array(9, 9, 9, 0.1))
    policy = PruningPolicy(
        schedule="constant", density=0.75, budget="uniform", regrow=0.9, grow="gradient", end_round=9
    )
    # Two of three go, one pruned weight can come, and the better of the two that went has its place again.
    assert prune(known.weights, mask=mask, policy=policy, round=2, evidence=known).live.tolist() == [
        True,
        False,
        True,
        True,
    ]


def test_a_swap_keeps_to_the_schedule() -> None:
    policy = PruningPolicy(density=0.4, initial_density=0.8, end_round=6, regrow=0.3)
    mask = initial_mask(array(*range(52)), layout=layout(), policy=policy, seed=3)
    for number in range(2, 7):
        known = evidence(number, mask)
        after = prune(known.weights, mask=mask, policy=policy, round=number, evidence=known)
        assert after.num_live == math.floor(policy.density_at(number) * 52 + 1e-6)
        # At round 5 a tensor's share is less than a weight, and at the end it is zero.
        assert (after.live & ~mask.live).any() == (number < 5)
        mask = after


def vote(**options: object) -> PruningPolicy:
    return PruningPolicy(
        policy="vote",
        schedule="constant",
        density=0.5,
        budget="uniform",
        regrow=0.5,
        grow="gradient",
        end_round=9,
        **options,  # type: ignore[arg-type]
    )


def test_a_vote_prunes_the_union_to_the_budget() -> None:
    spec = Layout(tensors=(TensorSpec(name="w", shape=(2, 4), kind="linear", prunable=True),))
    union = Mask(layout=spec, live=np.array([1, 1, 1, 1, 1, 1, 0, 0], np.bool_))
    votes = array(1, 0.4, 1, 0.9, 0.6, 0.3, 0, 0)
    # Trained 4, 1 and 3; three have been grown and are zero: votes decide which of them stay.
    known = Evidence(weights=array(4, 1, 3, 0, 0, 0, 0, 0), mask=union, votes=votes)
    by_union = prune(known.weights, mask=union, policy=vote(), round=3, evidence=known)
    assert by_union.live.astype(int).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    # From a half of the votes on: 1 has too few, and the grown ones with enough come before it.
    by_half = prune(known.weights, mask=union, policy=vote(vote_threshold=0.5), round=3, evidence=known)
    assert by_half.live.astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0]
    # With too few that have enough, the budget is filled by votes.
    by_all = prune(known.weights, mask=union, policy=vote(vote_threshold=0.95), round=3, evidence=known)
    assert by_all.live.astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0]


def test_a_vote_is_asked_for_before_a_change() -> None:
    policy = vote(every=3, protect=("b.weight",))
    assert policy.question_at(2) == {}
    assert policy.question_at(1) == {
        "kind": "gradient",
        "form": "mask",
        "batches": 1,
        "at": 1.0,
        "swap": 0.5,
        "protect": ["b.weight"],
    }
    asked = [number for number in range(1, 12) if policy.question_at(number)]
    assert asked == [1, 4, 7]


def test_scores_are_asked_for_before_a_change() -> None:
    policy = PruningPolicy(score="taylor", schedule="geometric", every=2, start_round=2, end_round=6)
    asked = [number for number in range(1, 12) if policy.question_at(number)]
    # The density falls before rounds 4 and 6.
    assert asked == [3, 5]
    assert policy.question_at(3)["kind"] == "taylor"
    assert policy.question_at(3)["pruned"] is False
    assert not any(PruningPolicy(regrow=0.1).question_at(number) for number in range(1, 20))


def test_devices_are_told_no_more_than_they_need() -> None:
    assert PruningPolicy().told({}) == {}
    assert PruningPolicy(policy="none", power=2.0).told({}) == {}
    assert PruningPolicy(power=2.0).told({}) == {"power": 2.0}
    tiered = PruningPolicy(policy="tiered", tiers={"zero-*": 0.5}, protect=("b.weight",))
    assert tiered.told({}) == {"tiers": {"zero-*": 0.5}, "protect": ["b.weight"]}
    assert vote().told({"kind": "gradient"}) == {"question": {"kind": "gradient"}}


def literal_prunefl(scores: np.ndarray, known: Evidence, policy: PruningPolicy) -> list[int]:
    """Algorithm 1 of the paper, one weight at a time."""
    spec, live = known.mask.layout, known.mask.live
    times, fixed = weight_times(spec, policy=policy)
    is_open = spec.prunable()
    held = [i for i in range(len(live)) if live[i] and is_open[i]]
    num_stay = len(held) - int(prunable_share(known.round) * len(held))
    strongest = sorted(held, key=lambda i: (-abs(known.weights[i]), i))[:num_stay]
    chosen = {i for i in range(len(live)) if live[i] and not is_open[i]} | set(strongest)
    gain = sum(float(scores[i]) for i in chosen)
    time = fixed + sum(times[i] for i in chosen)
    others = [i for i in range(len(live)) if is_open[i] and i not in chosen]
    for i in sorted(others, key=lambda i: (-float(scores[i]) / times[i], i)):
        if float(scores[i]) / times[i] < gain / time:
            break
        chosen.add(i)
        gain, time = gain + float(scores[i]), time + times[i]
    return sorted(chosen)


@given(seed=st.integers(0, 2**32), fixed=st.sampled_from([0.0, 5.0, 60.0]))
def test_adaptive_pruning_is_the_greedy_algorithm(seed: int, fixed: float) -> None:
    rng = np.random.default_rng(seed)
    live = (rng.random(52) < 0.6) | ~layout().prunable()
    known = evidence(seed, Mask(layout=layout(), live=live), round=1)
    policy = PruningPolicy(
        schedule="adaptive",
        score="squared-gradient",
        times={"fixed": fixed, "a.weight": 2.0, "c.weight": 0.5},
    )
    scores = rng.integers(0, 50, 52).astype(np.float32)
    found = adaptive_live(scores, known, policy=policy)
    assert np.flatnonzero(found).tolist() == literal_prunefl(scores, known, policy)


def test_adaptive_pruning_on_small_numbers() -> None:
    spec = Layout(tensors=(TensorSpec(name="w", shape=(10,), kind="linear", prunable=True),))
    live = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.bool_)
    known = Evidence(weights=array(4, 3, 2, 1, 0, 0, 0, 0, 0, 0), mask=Mask(layout=spec, live=live))
    scores = array(2, 2, 2, 1, 0, 3, 2.3, 2.2, 0, 0)
    policy = PruningPolicy(schedule="adaptive", score="squared-gradient")
    # .3 of 4 is one weight that may go; 3 stay with 6/3. 3 >= 2; 2.3 >= 9/4; 2.2 < 11.3/5.
    known = Evidence(weights=known.weights, mask=known.mask, device=scores, round=2)
    mask = prune(known.weights, mask=known.mask, policy=policy, round=2, evidence=known)
    assert np.flatnonzero(mask.live).tolist() == [0, 1, 2, 5, 6]
    assert prunable_share(0) == 0.3
    assert prunable_share(10_000) == pytest.approx(0.15)
