"""The graph patterns of well-known architectures as small torch modules."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Residual additions, with and without a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.conv1, self.conv2 = conv_norm(6, 6), conv_norm(6, 6)
        self.conv3, self.conv4 = conv_norm(6, 8, stride=2), conv_norm(8, 8)
        self.shortcut = conv_norm(6, 8, 1, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.shortcut(x) + self.conv4(F.relu(self.conv3(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class DenseNet(nn.Module):
    """Every layer reads all the layers before it, joined by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1)
        self.norm3, self.transition = nn.BatchNorm2d(14), nn.Conv2d(14, 6, 1)
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        x = F.avg_pool2d(self.transition(F.relu(self.norm3(x))), 2)
        return self.head(x.flatten(1))


class SqueezeExcite(nn.Module):
    """Channels are weighted by what two small layers make of their means (SENet, EfficientNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.linear1, self.linear2 = nn.Linear(8, 4), nn.Linear(4, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.stem(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        weights = F.hardsigmoid(self.linear2(F.relu(self.linear1(x.mean((2, 3))))))
        return self.head((x * weights[:, :, None, None]).mean((2, 3)))


class MobileNet(nn.Module):
    """Expansion, depthwise convolution, projection; one depthwise convolution with two outputs per input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6, stride=2)
        self.expand, self.depthwise, self.project = (
            conv_norm(6, 12, 1),
            conv_norm(12, 12, groups=12),
            conv_norm(12, 6, 1),
        )
        self.twofold = conv_norm(6, 12, groups=6)
        self.head = nn.Sequential(nn.Conv2d(12, 10, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return self.classifier(self.head(F.hardswish(self.twofold(x))))


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    rows, channels, height, width = x.shape
    x = x.view(rows, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(rows, channels, height, width)


class ShuffleNet(nn.Module):
    """Channels are split in halves, one half worked on, both joined and shuffled; then a grouped variant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 12)
        self.conv1, self.depthwise, self.conv2 = (
            conv_norm(6, 6, 1),
            conv_norm(6, 6, groups=6),
            conv_norm(6, 6, 1),
        )
        self.grouped1, self.grouped2 = conv_norm(12, 12, 1, groups=2), conv_norm(12, 12, 1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        left, right = x.chunk(2, 1)
        right = F.relu(self.conv2(self.depthwise(F.relu(self.conv1(right)))))
        x = shuffle(torch.cat([left, right], 1), 2)
        x = shuffle(F.relu(self.grouped1(x)), 2)
        return self.head(self.grouped2(x).mean((2, 3)))


class Split(nn.Module):
    """A gated layer, and a block that keeps one part of its channels as they are (GLU, CSPNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.part = nn.Conv2d(8, 8, 3, padding=1)
        self.join = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x[:, :4], F.relu(self.part(x[:, 4:]))], 1)
        value, gate = torch.split(self.join(x), [5, 5], 1)
        return self.head((value * torch.sigmoid(gate)).amax((2, 3)))


class ViT(nn.Module):
    """Patches, position embeddings, attention with several heads, a feed-forward part, layer norms."""

    def __init__(self, *, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 4, 12) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        if packed:
            self.qkv = nn.Linear(12, 36)
        else:
            self.q, self.k, self.v = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.out = nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        rows, steps, width = x.shape
        if self.packed:
            q, k, v = self.qkv(x).reshape(rows, steps, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (layer(x).view(rows, steps, 3, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(rows, steps, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """torch's own transformer layer over sensor steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Inception(nn.Module):
    """Branches of several kinds, joined by channel, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.a, self.b1, self.b2, self.c = (
            conv_norm(6, 4, 1),
            conv_norm(6, 3, 1),
            conv_norm(3, 5),
            conv_norm(6, 3, 1),
        )
        self.d, self.e = nn.Conv2d(12, 4, (1, 3), padding=(0, 1)), nn.Conv2d(12, 4, (3, 1), padding=(1, 0))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        pooled = F.max_pool2d(x, 3, 1, 1)
        x = F.relu(torch.cat([self.a(x), self.b2(F.relu(self.b1(x))), self.c(pooled)], 1))
        x = F.leaky_relu(torch.cat([self.d(x), self.e(x)], 1), 0.1)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up by transposed convolution and by interpolation, with skips joined by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.deep = conv_norm(3, 4), conv_norm(4, 6), conv_norm(6, 8)
        self.up2, self.mix2 = nn.ConvTranspose2d(8, 6, 2, 2), conv_norm(12, 5)
        self.mix1 = conv_norm(9, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(F.max_pool2d(one, 2)))
        deep = F.relu(self.deep(F.max_pool2d(two, 2)))
        two = F.relu(self.mix2(torch.cat([self.up2(deep), two], 1)))
        one = torch.cat([F.interpolate(two, scale_factor=2.0, mode="nearest"), one], 1)
        return self.head(F.relu(self.mix1(one)))


class ResNeXt(nn.Module):
    """Grouped convolutions of a few channels each, with group and instance norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12)
        self.reduce, self.grouped, self.expand = (
            conv_norm(12, 12, 1),
            conv_norm(12, 12, groups=6),
            conv_norm(12, 12, 1),
        )
        self.instance = nn.InstanceNorm2d(12, affine=True)
        self.slope = nn.PReLU(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slope(self.norm(self.stem(x)))
        x = x + self.expand(F.elu(self.grouped(F.relu(self.reduce(x)))))
        return self.head(self.instance(x).amax((2, 3)))


class Wave(nn.Module):
    """One-dimensional convolutions over sensor samples, then a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 6, 3, padding=2, dilation=2)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool1d(torch.tanh(self.conv2(F.pad(x, (1, 1)))), 2).transpose(1, 2)
        steps, _ = self.lstm(self.gru(x)[0])
        return self.head(steps[:, -1])


class Steps(nn.Module):
    """Two recurrent layers in both directions, and one without biases whose last state counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(12, 4, batch_first=True, bias=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(x)
        _, (last, _) = self.lstm(steps)
        return self.head(torch.cat([last[-1], steps.mean(1)], 1))


class Plain(nn.Module):
    """Convolutions with biases, flattened into linear layers (LeNet, VGG)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc2(F.dropout(F.relu(self.fc1(x.flatten(1))), 0.5, self.training))


IMAGE = (3, 8, 8)
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (Plain, IMAGE),
    "resnet": (ResNet, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "squeeze-excite": (SqueezeExcite, IMAGE),
    "mobilenet": (MobileNet, IMAGE),
    "shufflenet": (ShuffleNet, IMAGE),
    "split": (Split, IMAGE),
    "vit": (ViT, IMAGE),
    "vit packed": (lambda: ViT(packed=True), IMAGE),
    "encoder": (Encoder, (6, 3)),
    "inception": (Inception, IMAGE),
    "unet": (UNet, IMAGE),
    "resnext": (ResNeXt, IMAGE),
    "wave": (Wave, (3, 12)),
    "steps": (Steps, (9, 3)),
}
