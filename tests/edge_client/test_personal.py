"""A device's own model: what its rule takes, and when."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hedgerow_codecs import ChannelSet, ChannelSlice, Layout, TensorSpec, seeded_parameters
from hedgerow_edge_client.held_out import measured, parted
from hedgerow_edge_client.parameters import module_layout, write_parameters
from hedgerow_edge_client.personal import PersonalRule
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.samples import make_samples
from hedgerow_edge_client.task import Task, load_task
from hedgerow_edge_client.training import train

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(5, 4), kind="linear", prunable=True),
        TensorSpec(name="a.bias", shape=(5,), kind="bias", prunable=False),
        TensorSpec(name="b.weight", shape=(2, 5), kind="linear", prunable=True),
        TensorSpec(name="c.weight", shape=(3, 5), kind="linear", prunable=False),
    )
)
# 20 + 5 + 10 + 15.
WEIGHTS = np.arange(50, dtype=np.float32) - 60
ALL = np.ones(50, np.bool_)


def test_a_change_takes_the_share_of_each_tensor_with_the_smallest_weights() -> None:
    rule = PersonalRule(density=0.4, share=0.3)
    left = rule.thinned(WEIGHTS, live=ALL, layout=LAYOUT)
    # |w| falls with the place: the last 6 of 20 and the last 3 of 10.
    assert np.flatnonzero(~left).tolist() == [*range(14, 20), *range(32, 35)]
    again = rule.thinned(WEIGHTS, live=left, layout=LAYOUT)
    # 30 % of 14 and of 7.
    assert np.flatnonzero(left & ~again).tolist() == [10, 11, 12, 13, 30, 31]


def test_it_stops_at_its_density_and_spares_what_is_protected() -> None:
    rule = PersonalRule(density=0.9, share=0.5)
    left = rule.thinned(WEIGHTS, live=ALL, layout=LAYOUT)
    # 5 of the 30 that can go, in equal shares.
    assert np.count_nonzero(left) == 46
    assert np.count_nonzero(~left[:20]) == 3
    thin = replace(rule, density=0.92)
    assert thin.thinned(WEIGHTS, live=left, layout=LAYOUT) is left
    spared = PersonalRule(density=0.4, share=0.5, protect=("a.weight",))
    left = spared.thinned(WEIGHTS, live=ALL, layout=LAYOUT)
    assert np.flatnonzero(~left).tolist() == [*range(30, 35)]


def test_channels_go_by_the_sum_of_their_rows() -> None:
    group = ChannelSet(
        size=5,
        slices=(
            ChannelSlice(tensor=0, axis=0, makes=True),
            ChannelSlice(tensor=1, axis=0),
            ChannelSlice(tensor=2, axis=1),
        ),
    )
    rule = PersonalRule(channels=0.6, share=0.2, groups=(group.to_text(),))
    left = rule.thinned(WEIGHTS, live=ALL, layout=LAYOUT)
    # The last row is the smallest; its bias stays in the layout, its columns of b go with it.
    assert np.flatnonzero(~left).tolist() == [16, 17, 18, 19, 29, 34]
    again = rule.thinned(WEIGHTS, live=left, layout=LAYOUT)
    assert np.flatnonzero(left & ~again).tolist() == [12, 13, 14, 15, 28, 33]
    assert rule.thinned(WEIGHTS, live=again, layout=LAYOUT) is again


@pytest.mark.parametrize(
    ("metric", "higher_is_better", "due"),
    [(0.5, True, True), (0.4999, True, False), (None, True, False), (0.6, False, False), (0.4, False, True)],
)
def test_it_thins_from_the_threshold_on(metric: float | None, higher_is_better: bool, due: bool) -> None:
    assert PersonalRule(least=0.5).is_due(metric, higher_is_better=higher_is_better) is due


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("all", "is no table"),
        ({"share": 1.0}, "makes no sense"),
        ({"density": True}, "'density' of personal models, which is not known here"),
        ({"blend": 0.5}, "'blend' of personal models, which is not known here"),
        ({"protect": "a"}, "none of texts"),
    ],
)
def test_a_rule_that_is_not_understood_is_refused(told: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PersonalRule.read(told, seed=1)


def test_a_rule_goes_through_the_pipe() -> None:
    rule = PersonalRule.read({"density": 0.5, "rewind": True, "protect": ["a"]}, seed=9, groups=["4;0"])
    assert rule == PersonalRule(density=0.5, rewind=True, protect=("a",), seed=9, groups=("4;0",))
    assert PersonalRule.from_plain(rule.to_plain()) == rule
    assert PersonalRule.read(None, seed=1) is None


def test_parts_are_the_same_each_time_and_do_not_overlap() -> None:
    samples = make_samples((np.arange(20, dtype=np.float32)[:, None], np.arange(20)), source="x")
    rest, held = parted(samples, 0.25)
    assert held is not None
    assert (len(rest), len(held)) == (15, 5)
    ids = [part.batch(range(len(part)))[1].tolist() for part in (rest, held)]
    assert sorted(ids[0] + ids[1]) == list(range(20))
    assert ids == [part.batch(range(len(part)))[1].tolist() for part in parted(samples, 0.25) if part]
    assert parted(samples, 0.0) == (samples, None)
    assert parted(samples, 0.02)[1] is None


TASK = """
import numpy as np
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))

def load_data(data, client):
    inputs = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    return inputs, inputs.argmax(1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return load_task(path)


def trained(task: Task, rule: PersonalRule, **request: object):  # type: ignore[no-untyped-def]
    module = task.model()
    layout = module_layout(module)
    weights = np.random.default_rng(4).normal(size=layout.num_parameters).astype(np.float32)
    wanted = TrainRequest(
        round=1,
        seed=3,
        epochs=1,
        batch_size=8,
        learning_rate=1e-12,
        weights=weights,
        live=np.ones(layout.num_parameters, np.bool_),
        personal=rule,
    )
    wanted = TrainRequest.from_wire(wanted.to_wire())
    result = train(module, task.samples(None, client="a"), wanted, task=task, **request)  # type: ignore[arg-type]
    return weights, layout, result


def test_a_good_model_is_thinned_and_begins_anew(task: Task) -> None:
    rule = PersonalRule(density=0.3, share=0.5, least=0.0, rewind=True, seed=5)
    _, layout, result = trained(task, rule)
    assert result.num_samples == 48
    assert np.count_nonzero(~result.proposal[:48]) == 24
    first = np.where(result.proposal, seeded_parameters(layout, seed=5), 0)
    np.testing.assert_allclose(result.weights, first, atol=1e-7)


def test_a_poor_model_stays_as_it_is(task: Task) -> None:
    weights, _, result = trained(task, PersonalRule(density=0.3, share=0.5, least=1.1, rewind=True))
    assert result.proposal.all()
    np.testing.assert_allclose(result.weights, weights, atol=1e-7)


def test_the_metric_is_that_of_the_model_before_on_what_is_held_out(task: Task) -> None:
    weights, layout, result = trained(task, PersonalRule(least=1.1, held_out=0.5))
    samples = task.samples(None, client="a")
    held = parted(samples, 0.5)[1]
    module = task.model()
    write_parameters(module, layout, weights)
    assert held is not None
    assert result.held_out == measured(module, held, task)
    inputs, targets = held.batch(range(len(held)))
    with torch.no_grad():
        assert result.held_out == pytest.approx(float((module(inputs).argmax(1) == targets).float().mean()))


def test_what_the_task_holds_out_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(f"{TASK}\ndef load_held_out(data, client):\n    return load_data(data, client)\n")
    task = load_task(path)
    held = task.held_out(None, client="a")
    assert held is not None
    _, _, result = trained(task, PersonalRule(least=0.0, density=0.5), held_out=held)
    assert result.num_samples == 60
    assert result.held_out is not None
    assert not result.proposal.all()
