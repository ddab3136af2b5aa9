"""Kinds, prunability and order of a module's tensors, and the way there and back."""

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow_codecs import Layout, LayoutError, TensorSpec
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.parameters import module_layout, read_parameters, write_parameters


def rows(layout: Layout) -> list[tuple[str, str, bool]]:
    return [(t.name, t.kind, t.prunable) for t in layout.tensors]


def make_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 3, 3),
        nn.GroupNorm(1, 3),
        nn.Flatten(),
        nn.Linear(3, 4),
        nn.PReLU(4),
        nn.Linear(4, 2),
    )


def test_the_first_convolution_and_the_classifier_stay_dense() -> None:
    assert rows(module_layout(make_cnn())) == [
        ("0.weight", "conv", False),
        ("0.bias", "bias", False),
        ("1.weight", "norm", False),
        ("1.bias", "norm", False),
        ("1.running_mean", "buffer", False),
        ("1.running_var", "buffer", False),
        ("2.weight", "conv", True),
        ("2.bias", "bias", False),
        ("3.weight", "norm", False),
        ("3.bias", "norm", False),
        ("5.weight", "linear", True),
        ("5.bias", "bias", False),
        ("6.weight", "other", False),
        ("7.weight", "linear", False),
        ("7.bias", "bias", False),
    ]


def test_a_convolution_that_is_not_first_is_prunable() -> None:
    layout = module_layout(nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 2)))
    # The one linear layer counts as the classifier.
    assert rows(layout)[0] == ("0.weight", "linear", False)
    assert rows(layout)[2] == ("2.weight", "conv", True)


def test_a_norm_before_the_first_convolution_does_not_count() -> None:
    layout = module_layout(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)))
    prunable = {t.name for t in layout.tensors if t.prunable}
    assert prunable == {"2.weight"}


class Language(nn.Module):
    """An embedding shared with the output, a GRU, a bare matrix, a constant and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.rnn = nn.GRU(3, 3)
        self.mix = nn.Parameter(torch.ones(3, 3))
        self.hidden = nn.Linear(3, 3, bias=False)
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embed.weight
        self.register_buffer("table", torch.zeros(4), persistent=False)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("seen", torch.tensor(0))


def test_a_shared_tensor_is_one_tensor_and_stays_an_embedding() -> None:
    assert rows(module_layout(Language())) == [
        ("mix", "other", True),
        ("scale", "buffer", False),
        ("embed.weight", "embedding", False),
        ("rnn.weight_ih_l0", "recurrent", True),
        ("rnn.weight_hh_l0", "recurrent", True),
        ("rnn.bias_ih_l0", "recurrent", False),
        ("rnn.bias_hh_l0", "recurrent", False),
        ("hidden.weight", "linear", True),
        ("out.bias", "bias", False),
    ]


def test_protect_names_more_tensors_under_any_of_their_names() -> None:
    layout = module_layout(Language(), protect=("mix", "rnn.weight_hh_l0", "out.weight"))
    assert {t.name for t in layout.tensors if t.prunable} == {"rnn.weight_ih_l0", "hidden.weight"}


def test_an_unknown_protected_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"names '2\.wieght'.* did you mean '2\.weight'"):
        module_layout(make_cnn(), protect=("2.wieght",))


def test_read_follows_the_layout_and_write_reads_back() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    layout = module_layout(module)
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        module[0].bias.fill_(5.0)
    assert read_parameters(module, layout).tolist() == [3.0, 4.0, 5.0, 1.0, 0.0, 0.0, 1.0]
    flat = np.arange(7, dtype=np.float32)
    flat.setflags(write=False)
    write_parameters(module, layout, flat)
    assert module[0].weight.tolist() == [[0.0, 1.0]]
    assert module[1].running_var.tolist() == [6.0]
    assert module[1].num_batches_tracked.item() == 0
    read = read_parameters(module, layout)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, flat)
    module[0].bias.data.fill_(-1.0)
    assert read[2] == 2.0  # a copy


def test_writing_a_shared_tensor_changes_both_ends() -> None:
    module = Language()
    layout = module_layout(module)
    write_parameters(module, layout, np.full(layout.num_parameters, 2.0, np.float32))
    assert module.out.weight is module.embed.weight
    assert bool((module.out.weight == 2.0).all())


def make_empty() -> nn.Module:
    module = nn.Linear(2, 1)
    module.weight = nn.Parameter(torch.zeros(0, 2))
    return module


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.Linear(2, 2).double(), r"'weight' is float64.* call \.float\(\)"),
        (nn.Linear(2, 2).half(), "'weight' is float16"),
        (nn.LazyLinear(2), "lazy layer"),
        (nn.Linear(2, 2, device="meta"), "is on 'meta'"),
        (make_empty(), r"'weight' is empty \(shape \(0, 2\)\)"),
        (nn.ReLU(), "no parameters"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(module: nn.Module, sentence: str) -> None:
    with pytest.raises(TaskError, match=sentence):
        module_layout(module)


def test_a_module_of_another_layout_is_refused() -> None:
    layout = Layout(tensors=(TensorSpec(name="weight", shape=(2, 2), kind="linear", prunable=False),))
    with pytest.raises(LayoutError, match="'bias'"):
        read_parameters(nn.Linear(2, 2), layout)
    with pytest.raises(LayoutError, match="'bias'"):
        write_parameters(nn.Linear(2, 2), layout, np.zeros(4, np.float32))
    with pytest.raises(LayoutError, match=r"\(3, 2\) in the module, \(2, 2\) in the layout"):
        write_parameters(nn.Linear(2, 3, bias=False), layout, np.zeros(4, np.float32))


def test_a_variance_below_zero_is_loaded_as_zero() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    layout = module_layout(module)
    flat = read_parameters(module, layout)
    layout.split(flat)["1.running_var"][...] = (-0.25, 0.5)
    layout.split(flat)["1.running_mean"][...] = (-0.25, 0.5)
    write_parameters(module, layout, flat)
    assert module[1].running_var.tolist() == [0.0, 0.5]
    assert module[1].running_mean.tolist() == [-0.25, 0.5]
