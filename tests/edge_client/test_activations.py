"""Thinned activations: the gradient of the weights is that of the thinned input, all else is as it was."""

import pytest
import torch
from torch import nn

from hedgerow_edge_client.activations import _Thinned, thinned_activations


def test_a_linear_layer_by_hand() -> None:
    layer = nn.Linear(2, 1)
    inputs = torch.tensor([[1.0, -4.0], [3.0, 2.0]], requires_grad=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -1.0]]))
        layer.bias.zero_()
    with thinned_activations(layer, 0.5):
        outputs = layer(inputs)
    assert outputs.tolist() == [[4.5], [-0.5]]
    outputs.backward(torch.tensor([[1.0], [10.0]]))
    # -4 and 3 are kept, each times its row's gradient.
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert inputs.grad is not None
    assert layer.weight.grad.tolist() == [[30.0, -4.0]]
    assert layer.bias.grad.tolist() == [11.0]
    assert inputs.grad.tolist() == [[0.5, -1.0], [5.0, -10.0]]
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("share", [0.25, 0.8])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2), lambda: nn.Linear(6, 5)])
def test_weights_learn_from_the_strongest_inputs_alone(make, share: float) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    layer, inputs = make(), torch.randn(2, 3, 6, 6, requires_grad=True)
    flat = inputs.detach().reshape(-1)
    keep = flat.abs().topk(-(-int(share * 1000) * len(flat) // 1000)).indices
    thin = torch.zeros_like(flat)
    thin[keep] = flat[keep]
    with thinned_activations(layer, share):
        outputs = layer(inputs)
    upstream = torch.randn_like(outputs)
    outputs.backward(upstream)
    found = [p.grad.clone() for p in layer.parameters()]
    through = inputs.grad.clone()  # type: ignore[union-attr]
    layer.zero_grad()
    layer(thin.reshape(inputs.shape)).backward(upstream)
    torch.testing.assert_close(found[0], layer.weight.grad)
    torch.testing.assert_close(found[1], layer.bias.grad)
    inputs.grad = None
    layer(inputs).backward(upstream)
    torch.testing.assert_close(through, inputs.grad)


def test_share_zero_is_the_density_of_the_weights() -> None:
    layer = nn.Linear(4, 1, bias=False)
    inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for live, expected in ((4, [1.0, 2.0, 3.0, 4.0]), (3, [0.0, 2.0, 3.0, 4.0]), (1, [0.0, 0.0, 0.0, 4.0])):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0] * live + [0.0] * (4 - live)]))
        layer.zero_grad()
        with thinned_activations(layer, 0.0):
            layer(inputs).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == [expected]


def test_what_is_kept_takes_less_memory_than_the_input() -> None:
    inputs = torch.randn(100, 64)
    kept = _Thinned(inputs, share=0.1)
    parts = [kept._values, kept._places]
    assert sum(part.untyped_storage().nbytes() for part in parts if part is not None) == 640 * (4 + 4)
    assert int(torch.count_nonzero(kept.dense())) == 640
    strongest = kept.dense() != 0
    assert float(inputs[strongest].abs().min()) >= float(inputs[~strongest].abs().max())
