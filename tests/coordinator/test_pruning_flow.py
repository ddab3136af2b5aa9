"""SynFlow on ONNX graphs: by hand, and against torch's gradients where an operator is not simple."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hedgerow_codecs import Layout, Mask, TensorSpec
from hedgerow_coordinator.errors import PruningError
from hedgerow_coordinator.pruning import Evidence, PruningPolicy, initial_mask, synflow_of
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_export import make_template


def dense_chain(*weights: list[list[float]], operator: str = "Relu") -> tuple[bytes, Layout, np.ndarray]:
    """Make a template of linear layers ``x W^T`` with an operator between them, without biases."""
    nodes, tensors, specs, name = [], [], [], "x"
    for number, values in enumerate(weights):
        array = np.array(values, np.float32)
        tensors.append(numpy_helper.from_array(array, f"w{number}"))
        specs.append(TensorSpec(name=f"w{number}", shape=array.shape, kind="linear", prunable=True))
        nodes.append(helper.make_node("Gemm", [name, f"w{number}"], [f"a{number}"], transB=1))
        name = f"a{number}"
        if number < len(weights) - 1:
            nodes.append(helper.make_node(operator, [name], [f"r{number}"]))
            name = f"r{number}"
    columns = len(weights[0][0])
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(weights[-1])])],
        tensors,
    )
    flat = np.concatenate([np.array(values, np.float32).reshape(-1) for values in weights])
    return helper.make_model(graph).SerializeToString(), Layout(tensors=tuple(specs)), flat


def test_the_formula_by_hand() -> None:
    template, layout, flat = dense_chain([[1, -2], [3, 0.5]], [[2, -1]])
    # R = 2 (1 + 2) + 1 (3 + .5). Scores of the first layer: 2*1, 2*2, 1*3, 1*.5; of the second: 2*3, 1*3.5.
    assert synflow_of(template, layout)(flat).tolist() == pytest.approx(
        [2 / 6, 4 / 6, 3 / 6, 0.5 / 6, 1, 3.5 / 6]
    )


def test_an_operator_that_is_not_known_is_named() -> None:
    template, layout, _ = dense_chain([[1.0]], [[1.0]], operator="Tanh")
    with pytest.raises(PruningError, match="cannot follow the operator 'Tanh' of this model"):
        synflow_of(template, layout)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.short = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.deep = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)) + self.short(x))
        return torch.cat([torch.relu(self.deep(x)), x], dim=1)


NETS = {
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, (3, 1), stride=(2, 1)),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.Flatten(),
        nn.Linear(5 * 2 * 5, 7),
        nn.LeakyReLU(),
        nn.Linear(7, 3),
    ),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)
    ),
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_scores_are_those_of_torch(name: str) -> None:
    torch.manual_seed(3)
    net = NETS[name]().eval()
    layout = module_layout(net)
    flat = read_parameters(net, layout)
    template = make_template(net, torch.randn(3, 1, 16, 16), layout=layout)
    found = synflow_of(template, layout)(flat)
    net = net.double()
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.abs_()
    net(torch.ones(1, 1, 16, 16, dtype=torch.float64)).sum().backward()
    by_name = {key: (p * p.grad).detach().numpy() for key, p in net.named_parameters() if p.grad is not None}
    wanted = np.concatenate(
        [by_name.get(spec.name, np.zeros(spec.shape)).reshape(-1) for spec in layout.tensors]
    )
    np.testing.assert_allclose(found, wanted / wanted.max(), rtol=1e-5, atol=1e-9)


def test_a_hundred_steps_keep_a_way_through_every_layer() -> None:
    rng = np.random.default_rng(0)
    # A wide layer and a bottleneck: in one step, and by magnitude, the bottleneck would be cut.
    shapes = [(30, 8), (4, 30), (30, 4), (3, 30)]
    weights = [
        rng.standard_normal(shape) * scale for shape, scale in zip(shapes, (1, 0.1, 1, 1), strict=True)
    ]
    template, layout, flat = dense_chain(*[layer.tolist() for layer in weights])
    flow = synflow_of(template, layout)
    policy = PruningPolicy(score="synflow", budget="global", schedule="constant", density=0.05)
    known = Evidence(weights=flat, mask=Mask.dense(layout), flow=flow)
    mask = initial_mask(flat, layout=layout, policy=policy, seed=1, evidence=known)
    assert mask.num_live == int(0.05 * layout.num_parameters)
    assert min(mask.lengths) >= 2
    # Every weight that is left lies on a way from the input to the output.
    assert (flow(np.where(mask.live, flat, 0).astype(np.float32))[mask.live] > 0).all()
    again = initial_mask(flat, layout=layout, policy=policy, seed=2, evidence=known)
    assert again == mask


def test_a_template_from_a_file_is_read(tmp_path: Path) -> None:
    template, layout, flat = dense_chain([[1.0, 1.0]], [[1.0]])
    path = tmp_path / "t.onnx"
    path.write_bytes(template)
    onnx.checker.check_model(str(path))
    assert synflow_of(path.read_bytes(), layout)(flat).tolist() == [0.5, 0.5, 1.0]
