"""What holds for all tiers and all masks of devices' own."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_codecs import (
    ChannelSet,
    ChannelSlice,
    DecodedUpdate,
    Layout,
    Mask,
    TensorSpec,
    tier_mask,
    width_tier,
)
from hedgerow_coordinator.aggregate import HeldAggregator

SHARES = st.floats(0.01, 1.0)


@st.composite
def models(draw: st.DrawFn) -> tuple[Layout, tuple[ChannelSet, ...]]:
    """Draw a chain of layers; between two of them a channel may become several columns."""
    sizes = draw(st.lists(st.integers(2, 7), min_size=2, max_size=4))
    blocks = draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    inputs, tensors, made = 3, [], []
    for number, size in enumerate(sizes):
        tensors += [
            TensorSpec(name=f"{number}.weight", shape=(size, inputs), kind="linear", prunable=number > 0),
            TensorSpec(name=f"{number}.bias", shape=(size,), kind="bias", prunable=False),
        ]
        inputs = size * blocks[number]
    tensors.append(TensorSpec(name="last.weight", shape=(2, inputs), kind="linear", prunable=False))
    for number, size in enumerate(sizes):
        block = blocks[number]
        reads = ChannelSlice(tensor=2 * number + 2, axis=1, step=block, block=block)
        makes = ChannelSlice(tensor=2 * number, axis=0, makes=True)
        made.append(ChannelSet(size=size, slices=(makes, ChannelSlice(tensor=2 * number + 1, axis=0), reads)))
    return Layout(tensors=tuple(tensors)), tuple(made)


@settings(deadline=None)
@given(model=models(), shares=st.tuples(SHARES, SHARES), seed=st.integers(0, 2**32 - 1))
def test_widths_are_nested_and_meet_their_share(
    model: tuple[Layout, tuple[ChannelSet, ...]], shares: tuple[float, float], seed: int
) -> None:
    layout, sets = model
    less, more = sorted(shares)
    live = (np.random.default_rng(seed).random(layout.num_parameters) < 0.7) | ~layout.prunable()
    mask = Mask(layout=layout, live=live)
    small, large = width_tier(sets, mask=mask, share=less), width_tier(sets, mask=mask, share=more)
    assert not (small.covered & ~large.covered).any()
    assert width_tier(sets, mask=mask, share=1.0).covered.all()
    for place, found in enumerate(sets):
        spec = small.mask.layout.tensors[2 * place]
        assert spec.shape[0] == math.ceil(less * found.size - 1e-9)
    assert np.array_equal(small.positions, np.flatnonzero(small.covered & live))
    # The small model's entries are the large one's, in its order.
    flat = np.arange(layout.num_parameters, dtype=np.float32)
    assert np.array_equal(flat[small.positions], small.mask.gather(flat[small.covered]))
    for found in sets:
        assert ChannelSet.parse(found.to_text(), layout=layout) == found


@settings(deadline=None)
@given(
    model=models(),
    shares=st.tuples(SHARES, SHARES),
    protected=st.booleans(),
    by_distance=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_tiers_of_weights_are_nested_and_meet_their_share(
    model: tuple[Layout, tuple[ChannelSet, ...]],
    shares: tuple[float, float],
    protected: bool,
    by_distance: bool,
    seed: int,
) -> None:
    layout, _ = model
    rng = np.random.default_rng(seed)
    # Whole numbers, so that there are ties.
    flat, origin = rng.integers(-3, 4, (2, layout.num_parameters)).astype(np.float32)
    mask = Mask(layout=layout, live=(rng.random(layout.num_parameters) < 0.7) | ~layout.prunable())
    protect = ("1.weight",) if protected else ()
    less, more = sorted(shares)
    small, large = (
        tier_mask(flat, mask=mask, share=share, protect=protect, origin=origin if by_distance else None)
        for share in (less, more)
    )
    assert not (small.live & ~large.live).any()
    assert not (large.live & ~mask.live).any()
    for spec, held, whole in zip(layout.tensors, small.lengths, mask.lengths, strict=True):
        goes = spec.prunable and spec.name not in protect
        assert held == (math.ceil(less * whole - 1e-9) if goes else whole)
    strength = np.abs(flat - origin) if by_distance else np.abs(flat)
    for spec, start in zip(layout.tensors, layout.offsets, strict=False):
        part = slice(start, start + spec.size)
        left = strength[part][mask.live[part] & ~small.live[part]]
        assert left.max(initial=0) <= strength[part][small.live[part]].min(initial=np.inf)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_devices=st.integers(1, 5))
def test_the_mean_runs_over_those_who_hold_a_weight(seed: int, num_devices: int) -> None:
    rng = np.random.default_rng(seed)
    layout = Layout(tensors=(TensorSpec(name="w", shape=(4, 6), kind="linear", prunable=True),))
    total = HeldAggregator(Mask.dense(layout))
    sums, held = np.zeros(24), np.zeros(24)
    for _ in range(num_devices):
        own = Mask(layout=layout, live=rng.random(24) < rng.random())
        values = rng.normal(size=24).astype(np.float32)
        weight = int(rng.integers(1, 100))
        total.add(DecodedUpdate(mask=own, dense=own.gather(values)), weight=weight)
        sums += weight * np.where(own.live, values, 0)
        held += weight * own.live
    found = total.mean()
    np.testing.assert_allclose(found[held > 0], (sums / np.maximum(held, 1))[held > 0], atol=1e-6)
    # A weight that nobody holds keeps its value.
    assert not found[held == 0].any()
