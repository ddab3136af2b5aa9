"""Structured pruning over dependency groups: scores by hand, coupled channels, smaller models on export."""

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import Layout, Mask
from hedgerow_coordinator.errors import PruningError, SettingError
from hedgerow_coordinator.pruning import (
    CHANNEL_SCORES,
    Evidence,
    PruningPolicy,
    has_too_many_channels,
    initial_mask,
    prunable_groups,
    prune,
)
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_export import (
    ChannelGroups,
    Runner,
    channel_groups,
    compact_model,
    fill_template,
    make_template,
    template_layout,
)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float64)


def test_channel_scores_by_hand() -> None:
    weights = [rows([3, -4], [0, 1], [3, -3]), rows([0], [1], [0])]
    compute = {name: score.compute for name, score in CHANNEL_SCORES.items()}
    assert compute["l1"](weights).tolist() == [7, 2, 6]
    assert compute["l2"](weights).tolist() == pytest.approx([5, 2**0.5, 18**0.5])
    # Distances: 0-1 sqrt(9 + 25 + 1), 0-2 1, 1-2 sqrt(9 + 16 + 1).
    far, near, middle = 35**0.5, 1.0, 26**0.5
    assert compute["fpgm"](weights).tolist() == pytest.approx([far + near, far + middle, near + middle])
    assert compute["taylor"](weights).tolist() == [1, 4, 0]
    assert compute["norm-scale"]([rows([-2], [1], [0.5]), rows([1], [1], [1])]).tolist() == [3, 2, 1.5]


class Residual(nn.Module):
    """A stem, a block whose sum ties its channels to the stem's, a block on its own, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 16, 3, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


Model = tuple[bytes, Layout, np.ndarray, ChannelGroups]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(1)
    net = Residual().eval()
    layout = module_layout(net)
    template = make_template(net, torch.randn(3, 1, 10, 10), layout=layout)
    groups = prunable_groups(channel_groups(template), layout, protect=())
    return template, layout, read_parameters(net, layout), groups


def policy(**options: object) -> PruningPolicy:
    settings = {"schedule": "constant", "density": 1.0, "channels": 0.5, **options}
    return PruningPolicy(**settings)  # type: ignore[arg-type]


def live_of(mask: Mask) -> dict[str, np.ndarray]:
    parts, start = {}, 0
    for spec in mask.layout.tensors:
        parts[spec.name] = mask.live[start : start + spec.size].reshape(spec.shape)
        start += spec.size
    return parts


def narrowed(model: Model, mask: Mask | None = None, **options: object) -> Mask:
    _, layout, flat, groups = model
    known = Evidence(weights=flat, mask=mask or Mask.dense(layout), groups=groups)
    return prune(flat, mask=known.mask, policy=policy(**options), round=2, evidence=known)


def test_coupled_channels_go_together(model: Model) -> None:
    mask = narrowed(model)
    live = live_of(mask)
    inner = live["first.weight"].any(axis=(1, 2, 3))
    assert inner.sum() == 6
    # What makes a channel and what reads it.
    assert np.array_equal(live["second.weight"].any(axis=(0, 2, 3)), inner)
    assert live["first.weight"][inner].any(axis=(2, 3)).sum() == 6 * 4
    # The sum ties the stem and the second convolution; the stem itself is never pruned.
    outer = live["second.weight"].any(axis=(1, 2, 3))
    assert outer.sum() == 4
    assert np.array_equal(live["first.weight"].any(axis=(0, 2, 3)), outer)
    assert np.array_equal(live["last.weight"].any(axis=(0, 2, 3)), outer)
    assert live["last.weight"].any(axis=(1, 2, 3)).sum() == 8
    for name in ("stem.weight", "stem.bias", "norm.weight", "head.weight"):
        assert live[name].all(), name


def test_the_best_channels_stay(model: Model) -> None:
    _, layout, flat, _ = model
    norms = np.sqrt((layout.split(flat)["first.weight"] ** 2).sum(axis=(1, 2, 3)))
    inner = live_of(narrowed(model))["first.weight"].any(axis=(1, 2, 3))
    assert norms[inner].min() > norms[~inner].max()


@pytest.mark.parametrize("score", sorted(set(CHANNEL_SCORES) - {"taylor", "norm-scale"}))
def test_channels_do_not_come_back(model: Model, score: str) -> None:
    mask = None
    for share, expected in ((0.75, 9), (0.5, 6), (0.5, 6), (0.05, 1)):
        before, mask = mask, narrowed(model, mask, channels=share, channel_score=score)
        assert live_of(mask)["first.weight"].any(axis=(1, 2, 3)).sum() == expected
        assert before is None or not (mask.live & ~before.live).any()


def test_hybrid_prunes_weights_inside_the_channels_that_stay(model: Model) -> None:
    _, layout, _, _ = model
    wide, both = narrowed(model), narrowed(model, density=0.3)
    assert not (both.live & ~wide.live).any()
    assert both.num_live == int(0.3 * layout.num_parameters)


def test_the_share_follows_the_schedule(model: Model) -> None:
    _, layout, flat, groups = model
    plan = PruningPolicy(schedule="cubic", density=1.0, channels=0.5, start_round=2, end_round=6)
    shares = [plan.channels_at(number) for number in range(1, 8)]
    assert shares == pytest.approx([1, 1, 0.7109375, 0.5625, 0.5078125, 0.5, 0.5])
    assert [plan.changes_at(number) for number in range(1, 8)] == [False, False, *[True] * 4, False]
    known = Evidence(weights=flat, mask=Mask.dense(layout), groups=groups)
    mask = initial_mask(flat, layout=layout, policy=plan, seed=1, evidence=known)
    assert mask.density == 1
    assert has_too_many_channels(groups, mask, share=plan.channels_at(3))
    mask = prune(flat, mask=mask, policy=plan, round=3, evidence=known)
    assert not has_too_many_channels(groups, mask, share=plan.channels_at(3))


def test_taylor_asks_the_devices(model: Model) -> None:
    _, layout, flat, groups = model
    plan = policy(channel_score="taylor", schedule="one-shot", start_round=3)
    assert plan.question_at(2)["kind"] == "snip"
    assert plan.question_at(3) == {}
    known = Evidence(weights=flat, mask=Mask.dense(layout), groups=groups)
    with pytest.raises(PruningError, match="no score of the devices"):
        prune(flat, mask=known.mask, policy=plan, round=3, evidence=known)
    scores = np.zeros_like(flat)
    first = layout.split(scores)["first.weight"]
    first[[1, 3, 5, 7, 9, 11]] = 0.1
    # What cancels out over the channel counts for nothing.
    first[0, 0, 0] = [5, -5, 0]
    known = Evidence(weights=flat, mask=Mask.dense(layout), groups=groups, device=scores)
    mask = prune(flat, mask=known.mask, policy=plan, round=3, evidence=known)
    inner = live_of(mask)["first.weight"].any(axis=(1, 2, 3))
    assert np.flatnonzero(inner).tolist() == [1, 3, 5, 7, 9, 11]


def test_norm_scales_need_norms_in_every_group(model: Model) -> None:
    with pytest.raises(PruningError, match="have no norm to score them by"):
        narrowed(model, channel_score="norm-scale")


def test_protected_tensors_keep_their_weights(model: Model) -> None:
    live = live_of(narrowed(model, protect=("second.weight",)))
    assert live["second.weight"].all()
    assert live["first.weight"].any(axis=(1, 2, 3)).sum() == 6


def test_what_is_left_is_smaller_on_export(model: Model) -> None:
    template, layout, flat, _ = model
    mask = narrowed(model)
    filled = fill_template(template, np.where(mask.live, flat, 0).astype(np.float32), layout=layout)
    small = compact_model(filled)
    shapes = {spec.name: spec.shape for spec in template_layout(small).tensors}
    assert shapes["first.weight"] == (6, 4, 3, 3)
    assert shapes["last.weight"] == (8, 4, 3, 3)
    assert len(small) < 0.6 * len(filled)
    inputs = np.random.default_rng(0).standard_normal((4, 1, 10, 10)).astype(np.float32)
    np.testing.assert_allclose(Runner(small)(inputs), Runner(filled)(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 0.0}, "channels must be more than 0"),
        ({"channel_score": "l3"}, "channel_score must be one of"),
        ({"density": 0.5, "regrow": 0.1}, "regrow must be 0 when channels is below 1"),
        ({"policy": "soft"}, "channels must be 1 with the policy soft"),
        ({"density": 0.5, "score": "fisher", "channel_score": "taylor"}, "a round asks for one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        policy(**options)


def test_a_model_without_channels_is_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 3))
    layout = module_layout(net)
    template = make_template(net, torch.randn(3, 6), layout=layout)
    with pytest.raises(PruningError, match="no channels that can be pruned"):
        prunable_groups(channel_groups(template), layout, protect=())
