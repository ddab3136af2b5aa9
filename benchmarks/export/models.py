"""The models that are exported: torch modules of usual shapes, for images of 28x28 and for sensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers: 421,642 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(3136, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class ResNet18(nn.Module):
    """ResNet-18 for small images (He et al., 2016): 11.2 million parameters at a width of 64."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width << stage
            blocks += [Block(inputs, outputs, 2 if stage else 1), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(1, 32, 3, stride=2)
        shapes = [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1), (96, 96, 1)]
        self.blocks = nn.ModuleList(Inverted(*shape) for shape in shapes)
        self.last = _conv_norm(96, 384, 1)
        self.fc = nn.Linear(384, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(F.relu6(self.last(x)).mean((2, 3)))


class Inverted(nn.Module):
    """Expand six times, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 6 * inputs
        self.expand, self.project = _conv_norm(inputs, wide, 1), _conv_norm(wide, outputs, 1)
        self.depthwise = _conv_norm(wide, wide, 3, stride=stride, groups=wide)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + y if self.adds else y


class SensorGRU(nn.Module):
    """A convolution and two recurrent layers over 100 steps of 6 sensor channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 64, 5, 2, 2)
        self.gru = nn.GRU(64, 128, num_layers=2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(128, 256), nn.Linear(256, 18)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return self.fc2(F.relu(self.fc1(steps[:, -1])))


class Attention(nn.Module):
    """Attention with eight heads and a feed-forward part, each with a norm before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, steps, width = x.shape
        packed = self.qkv(self.norm1(x)).reshape(rows, steps, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, steps, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Three attention blocks over 50 steps of sensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(6, 128, 2, 2)
        self.positions = nn.Parameter(torch.randn(1, 50, 128) * 0.1)
        self.blocks = nn.Sequential(*(Attention(128, 8) for _ in range(3)))
        self.fc = nn.Linear(128, 18)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = self.embed(x.transpose(1, 2)).transpose(1, 2) + self.positions
        return self.fc(self.blocks(steps).mean(1))


def _conv_norm(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model of the table."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


CASES: dict[str, Case] = {
    "small-cnn": Case(title="small CNN", build=SmallCNN, shape=(1, 28, 28)),
    "resnet18": Case(title="ResNet-18-like", build=ResNet18, shape=(1, 28, 28)),
    "mobilenet": Case(title="MobileNet-like", build=MobileNet, shape=(1, 28, 28)),
    "gru": Case(title="GRU for sensors", build=SensorGRU, shape=(100, 6)),
    "transformer": Case(title="small transformer", build=Transformer, shape=(100, 6)),
}
