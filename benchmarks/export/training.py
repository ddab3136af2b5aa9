"""A ResNet-18 that has learned something, half of its channels removed on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.export.data import Images
from benchmarks.export.models import ResNet18
from numpy.typing import NDArray

from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import (
    channel_groups,
    fill_template,
    make_template,
    shrink_model,
    template_layout,
    template_parameters,
)

DENSE_STEPS, HALF_STEPS, BATCH = 4, 120, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A template with weights after the dense steps, and the shrunk model after the others."""

    dense: bytes
    half: bytes


def layout_of(module: torch.nn.Module) -> Layout:
    """Return the layout of a module's float tensors."""
    return Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), kind="other", prunable=tensor.ndim > 1)
            for name, tensor in module.state_dict().items()
            if tensor.is_floating_point()
        )
    )


def half_of(model: bytes) -> dict[str, NDArray[np.bool_]]:
    """Return masks that keep the stronger half of every group, by the L1 norm of what makes a channel."""
    weights = template_layout(model).split(template_parameters(model))
    masks = {}
    for group in channel_groups(model):
        score = np.zeros(group.size)
        for member in group.members:
            if member.role == "out":
                score += np.abs(member.rows(weights[member.tensor])).mean(axis=1)
        mask = np.zeros(group.size, bool)
        mask[np.argsort(-score, kind="stable")[: (group.size + 1) // 2]] = True
        masks[group.id] = mask
    return masks


def trained_resnet(images: Images, *, cache: Path, quick: bool) -> Trained:
    """Train, remove half of the channels, train on; or read what an earlier call has kept."""
    folder = cache / f"resnet18-{images.source.split()[0].lower()}{'-quick' if quick else ''}"
    paths = folder / "dense.onnx", folder / "half.onnx"
    if all(path.is_file() for path in paths):
        return Trained(dense=paths[0].read_bytes(), half=paths[1].read_bytes())
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    module = ResNet18()
    _train(module, images, rng, steps=2 if quick else DENSE_STEPS)
    dense = make_template(module.eval(), images.inputs[:4], layout=layout_of(module))
    half = shrink_model(dense, half_of(dense))
    small, layout = ResNet18(width=32), template_layout(half)
    parts = layout.split(template_parameters(half))
    small.load_state_dict({name: torch.from_numpy(part.copy()) for name, part in parts.items()}, strict=False)
    _train(small, images, rng, steps=5 if quick else HALF_STEPS)
    state = small.state_dict()
    flat = layout.join({spec.name: state[spec.name].numpy() for spec in layout.tensors})
    half = fill_template(half, flat, layout=layout)
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in zip(paths, (dense, half), strict=True):
        path.write_bytes(data)
    return Trained(dense=dense, half=half)


def _train(module: torch.nn.Module, images: Images, rng: np.random.Generator, *, steps: int) -> None:
    module.train()
    module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = rng.integers(len(images.inputs), size=BATCH)
        optimizer.zero_grad()
        outputs = module(torch.from_numpy(images.inputs[rows]).to(memory_format=torch.channels_last))
        torch.nn.functional.cross_entropy(outputs, torch.from_numpy(images.classes[rows])).backward()
        optimizer.step()
        schedule.step()
    module.to(memory_format=torch.contiguous_format)
