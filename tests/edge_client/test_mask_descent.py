"""FedPM on a device: scores move, weights do not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import signed_constants
from hedgerow_edge_client.mask_descent import MaskDescent
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.task import load_task
from hedgerow_edge_client.training import train

TASK = """
import numpy as np
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(3, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 3))

def load_data(data, client):
    inputs = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    return inputs, inputs.argmax(1)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def request_for(layout: object, likely: np.ndarray, **values: object) -> TrainRequest:
    settings: dict[str, object] = {"round": 1, "seed": 5, "epochs": 1, "batch_size": 20, "learning_rate": 0.1}
    request = TrainRequest(
        **{**settings, **values},  # type: ignore[arg-type]
        weights=likely.astype(np.float32),
        live=np.ones(likely.size, np.bool_),
        sampled=9,
    )
    return TrainRequest.from_wire(request.to_wire())


def test_the_network_is_the_frozen_weights_under_the_mask() -> None:
    module = nn.Linear(50, 40)
    layout = module_layout(module)
    likely = np.full(layout.num_parameters, 0.3)
    descent = MaskDescent(module, layout, request_for(layout, likely))
    bits = descent.bits()
    assert set(bits.tolist()) == {0.0, 1.0}
    assert 0.25 < bits.mean() < 0.35
    np.testing.assert_array_equal(read_parameters(module, layout), bits * signed_constants(layout, seed=9))


def test_a_first_step_of_adam_is_the_rate_against_the_gradient() -> None:
    module = nn.Linear(4, 1, bias=False)
    layout = module_layout(module)
    descent = MaskDescent(module, layout, request_for(layout, np.full(4, 0.5), learning_rate=100.0))
    frozen = signed_constants(layout, seed=9)
    weight = module.weight
    weight.grad = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    descent.step()
    # Scores go by 100 against g w: certain, or as good as impossible.
    np.testing.assert_array_equal(descent.bits(), (np.array([1, 1, -1, -1]) * frozen < 0).astype(np.float32))
    assert weight.grad is None


def test_training_returns_a_mask_that_does_better(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    task = load_task(path)
    module = task.model()
    layout = module_layout(module)
    likely = np.full(layout.num_parameters, 0.5)
    request = request_for(layout, likely, epochs=20)
    result = train(module, task.samples(None, client="a"), request, task=task)
    assert set(result.weights.tolist()) == {0.0, 1.0}
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    # The norm is no part of the mask.
    start = [spec.name for spec in layout.tensors].index("1.weight")
    assert result.weights[layout.offsets[start] : layout.offsets[start + 2]].all()
    again = train(module, task.samples(None, client="a"), request, task=task)
    np.testing.assert_array_equal(again.weights, result.weights)


def test_a_model_with_running_statistics_is_refused() -> None:
    from hedgerow_codecs import LayoutError

    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    layout = module_layout(module)
    with pytest.raises(LayoutError, match="running statistics"):
        MaskDescent(module, layout, request_for(layout, np.full(layout.num_parameters, 0.5)))
