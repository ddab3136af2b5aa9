"""What is measured of a version's export is what `hedgerow export` writes, and what a new process takes."""

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import Mask
from hedgerow_coordinator import ServerState
from hedgerow_coordinator.pruning.target import Target
from hedgerow_coordinator.sizing import weigher
from hedgerow_edge_client.parameters import module_layout, read_parameters
from hedgerow_export import ModelError, count_costs, make_template
from hedgerow_export.footprint import measure_footprint


@pytest.fixture(scope="module")
def net() -> tuple[bytes, ServerState]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    layout = module_layout(module)
    template = make_template(module, torch.randn(3, 8), layout=layout)
    weights = read_parameters(module, layout)
    state = ServerState(version=3, mask=Mask.dense(layout), weights=weights, published=weights)
    return template, state


def without_channels(state: ServerState, *, share: float) -> ServerState:
    """Take the first channels of the middle layers."""
    live = {name: part.copy() for name, part in state.mask.layout.split(state.mask.live).items()}
    for above, below in (("0", "2"), ("2", "4")):
        count = int(64 * share)
        live[f"{above}.weight"][:count] = False
        if below == "2":
            live[f"{below}.weight"][:, :count] = False
    flat = np.concatenate([part.reshape(-1) for part in live.values()])
    mask = Mask(layout=state.mask.layout, live=flat)
    return ServerState(version=4, mask=mask, weights=state.weights, published=state.published)


def test_nothing_is_measured_that_is_not_bounded(net: tuple[bytes, ServerState]) -> None:
    template, state = net
    assert weigher(None, template=template) is None
    assert weigher(Target(uplink_bytes=3), template=template) is None
    weigh = weigher(Target(zip_bytes=3), template=template)
    assert weigh is not None
    assert weigh(state, {}).keys() == {"zip_bytes"}


def test_an_estimate_is_multiply_adds_over_the_rate(net: tuple[bytes, ServerState]) -> None:
    template, state = net
    assert count_costs(template).multiply_adds == 8 * 64 + 64 * 64 + 64 * 3
    weigh = weigher(Target(latency_ms=1, multiply_adds_per_s=1e6), template=template)
    assert weigh is not None
    assert weigh(state, {}) == {"latency_ms": 4.8}
    narrow = weigh(without_channels(state, share=0.5), {})
    # Half of the first layer's channels are gone from both sides; of the second the columns stay.
    assert narrow["latency_ms"] < 4.8


def test_what_is_measured_is_measured(net: tuple[bytes, ServerState]) -> None:
    template, state = net
    weigh = weigher(Target(latency_ms=1, file_bytes=1, memory_mib=1), template=template)
    assert weigh is not None
    found = weigh(state, {"run": "t", "round": "3"})
    assert 4 * state.mask.layout.num_parameters < found["file_bytes"] < 3 * len(template)
    assert 0 < found["latency_ms"] < 1000
    assert 0 < found["memory_mib"] < 500
    assert weigh(without_channels(state, share=0.5), {})["file_bytes"] < found["file_bytes"]


def test_a_larger_model_takes_more_memory() -> None:
    torch.manual_seed(0)
    sizes = []
    for width in (8, 4096):
        module = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width // 8))
        template = make_template(module, torch.randn(3, 8), layout=module_layout(module))
        sizes.append(measure_footprint(template, np.zeros((1, 8), np.float32)))
    # The second holds 8 MiB of weights.
    assert sizes[1] - sizes[0] > 7


def test_a_model_that_cannot_be_run_is_told_with_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"^The model's memory could not be measured: .*\.$"):
        measure_footprint(b"no model", np.zeros((1, 8), np.float32))
