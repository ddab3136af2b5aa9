"""The models whose updates are recorded, and the data they learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Inputs, classes and to which of the clients a sample belongs (-1: to none)."""

    inputs: NDArray[np.float32]
    classes: NDArray[np.int64]
    owners: NDArray[np.int64]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model, its data and how clients train it."""

    name: str
    build: Callable[[int], nn.Module]
    load: Callable[[Path | None], Data]
    learning_rate: float
    batch: int
    samples: int
    """Of each client in a round, at the most."""
    kinds: tuple[str, ...] = ("raw", "feedback", "adam", "masked")


def small_cnn(classes: int) -> nn.Module:
    """Benchmark B1's SmallCNN: 421,642 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


class Block(nn.Module):
    """Two 3x3 convolutions with batch-norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, tracked: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, track_running_stats=tracked)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, track_running_stats=tracked)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs, track_running_stats=tracked),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def residual_net(
    classes: int,
    *,
    widths: tuple[int, ...] = (16, 32, 64, 128),
    depth: int = 1,
    tracked: bool = False,
) -> nn.Module:
    """A residual net with batch-norm; by default 308,000 parameters.

    Running statistics are no part of it unless `tracked`. Training does not read them, so the weights learn
    the same; but differences of statistics are so much larger than those of weights that at equal
    signal-to-noise ratio next to nothing but statistics would be measured.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(1, widths[0], 3, 2, 1, bias=False),
        nn.BatchNorm2d(widths[0], track_running_stats=tracked),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for number, width in enumerate(widths):
        for block in range(depth):
            layers.append(Block(inputs, width, stride=2 if number and not block else 1, tracked=tracked))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def residual_net_with_statistics(classes: int) -> nn.Module:
    """The same with running statistics: 310,000 parameters."""
    return residual_net(classes, tracked=True)


def resnet18(classes: int) -> nn.Module:
    """ResNet-18 for small grey images: 11.2 million parameters."""
    return residual_net(classes, widths=(64, 128, 256, 512), depth=2)


def mlp(classes: int) -> nn.Module:
    """Two hidden layers on 91 features: 183,000 parameters."""
    return nn.Sequential(
        nn.Linear(91, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes)
    )


class Gru(nn.Module):
    """Two recurrent layers on sequences of 32 features: 163,000 parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(32, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x)
        out: Tensor = self.head(states.mean(1))
        return out


def images(pack: str) -> Callable[[Path | None], Data]:
    """Return a loader of 28x28 images, dealt out to five clients by Dirichlet(0.3) over classes."""

    def load(folder: Path | None) -> Data:
        from hedgerow.partition import dirichlet_split

        if folder is not None and (folder / f"{pack}.npz").is_file():
            with np.load(folder / f"{pack}.npz", allow_pickle=False) as data:
                x, y, source = data["x_train"], data["y_train"], pack
            x = x.astype(np.float32)[:, None] / 255
        else:
            small, y, source = _digits()
            x = np.pad(np.kron(small, np.ones((1, 3, 3), np.float32)), ((0, 0), (2, 2), (2, 2)))[:, None]
        owners = np.full(len(y), -1)
        for owner, part in enumerate(dirichlet_split(y, num_clients=5, alpha=0.3, seed=7, min_samples=100)):
            owners[part] = owner
        return Data(inputs=x, classes=y.astype(np.int64), owners=owners, source=source)

    return load


def watch_features(folder: Path | None) -> Data:
    """Load features of smartwatch windows; a client is a fifth of the people."""
    if folder is not None and (folder / "wisdm_watch.npz").is_file():
        with np.load(folder / "wisdm_watch.npz", allow_pickle=False) as data:
            x, y, people = data["x_train"], data["y_train"], data["subject_train"]
        x = (x - x.mean(0)) / (x.std(0) + 1e-6)
        _, person = np.unique(people, return_inverse=True)
        return Data(inputs=x, classes=y.astype(np.int64), owners=person % 5, source="wisdm_watch")
    small, y, source = _digits()
    x = np.pad(small.reshape(len(small), 64), ((0, 0), (0, 27)))
    return Data(inputs=x, classes=y, owners=np.arange(len(y)) % 5, source=source)


def spoken_digits(folder: Path | None) -> Data:
    """Load log-mel sequences of spoken digits; a client is a speaker."""
    if folder is not None and (folder / "fsdd_logmel.npz").is_file():
        with np.load(folder / "fsdd_logmel.npz", allow_pickle=False) as data:
            x, y, speaker = data["x_train"], data["y_train"], data["speaker_train"]
        x = x.astype(np.float32) / 255 - 0.5
        return Data(
            inputs=x, classes=y.astype(np.int64), owners=speaker.astype(np.int64), source="fsdd_logmel"
        )
    small, y, source = _digits()
    x = np.pad(small, ((0, 0), (0, 0), (0, 24)))
    return Data(inputs=x, classes=y, owners=np.arange(len(y)) % 5, source=source)


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    images = (flat / 16).astype(np.float32).reshape(-1, 8, 8)
    return images, labels.astype(np.int64), "scikit-learn's digits"


RECIPES = (
    Recipe(
        name="cnn",
        build=small_cnn,
        load=images("mnist_writers"),
        learning_rate=0.01,
        batch=64,
        samples=4000,
    ),
    Recipe(
        name="resnet",
        build=residual_net,
        load=images("fashion_mnist"),
        learning_rate=0.05,
        batch=64,
        samples=2000,
    ),
    Recipe(
        name="resnet-stats",
        build=residual_net_with_statistics,
        load=images("fashion_mnist"),
        learning_rate=0.05,
        batch=64,
        samples=2000,
        kinds=("raw",),
    ),
    Recipe(name="mlp", build=mlp, load=watch_features, learning_rate=0.05, batch=32, samples=3000),
    Recipe(name="gru", build=Gru, load=spoken_digits, learning_rate=0.2, batch=16, samples=450),
)
LARGE = Recipe(
    name="resnet18",
    build=resnet18,
    load=images("fashion_mnist"),
    learning_rate=0.05,
    batch=32,
    samples=320,
)
