"""Frozen tensors in torch: no gradients for them, and norms that keep their statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from torch import nn


@contextlib.contextmanager
def frozen_tensors(module: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Keep tensors out of all training in this block.

    Parameters take no gradient, so that none is computed for the layers before them either. A module with a
    frozen buffer (running statistics) computes as in evaluation mode, whatever `train` says.

    Parameters
    ----------
    module
        The model; afterwards it is what it was.
    names
        As in the state dict.
    """
    parameters = [p for name, p in module.named_parameters() if name in names and p.requires_grad]
    owners = [
        owner
        for path, owner in module.named_modules()
        if any(f"{path}.{name}".lstrip(".") in names for name, _ in owner.named_buffers(recurse=False))
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for owner in owners:
        _hold_in_evaluation(owner)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for owner in owners:
            del owner.train


def _hold_in_evaluation(owner: nn.Module) -> None:
    # `train` goes through all modules, ours and the user's calls of it: the one on the instance is found.
    def train(mode: bool = True) -> nn.Module:
        for child in owner.children():
            child.train(mode)
        owner.training = False
        return owner

    owner.train = train  # type: ignore[method-assign]
    owner.training = False
