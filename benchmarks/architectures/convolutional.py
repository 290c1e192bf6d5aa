# SPDX-License-Identifier: Apache-2.0
"""Convolutional classifiers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CLASSES = 10


def conv_bn(inside: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size at stride 1, and its normalisation."""
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(x).flatten(1))


class Basic(nn.Module):
    """The basic residual block (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(inside, out, 3, stride), conv_bn(out, out)
        same = stride == 1 and inside == out
        self.shortcut = nn.Identity() if same else conv_bn(inside, out, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual sums, a padded overlapping max pooling, strides on 1x1 shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(Basic(8, 8, 1), Basic(8, 12, 2), Basic(12, 12, 1))
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(x)))


class DenseNet(nn.Module):
    """Every layer reads all before it; normalisation before the activation (Huang et al. 2017, arXiv 1608.06993)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, 1, 1)) for i in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 12, 1), nn.AvgPool2d(2))
        self.more = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(12 + 4 * i), nn.ReLU(), nn.Conv2d(12 + 4 * i, 4, 3, 1, 1)) for i in range(2)
        )
        self.last = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU())
        self.head = Head(20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = self.transition(x)
        for layer in self.more:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.last(x))


class Mixed(nn.Module):
    """Parallel branches: 1x1, factorised 1x5 and 5x1, an average pooling that does not count its padding."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.one = nn.Sequential(conv_bn(inside, 4, 1), nn.ReLU())
        self.factorised = nn.Sequential(
            conv_bn(inside, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, 4, (1, 5), padding=(0, 2)),
            nn.ReLU(),
            nn.Conv2d(4, 4, (5, 1), padding=(2, 0)),
            nn.ReLU(),
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn(inside, 4, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.factorised(x), self.pooled(x)], 1)


class Inception(nn.Module):
    """Branches side by side (Szegedy et al. 2016, arXiv 1512.00567), a max pooling that rounds its size up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.mixed = nn.Sequential(Mixed(8), Mixed(12), Mixed(12))
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixed(self.stem(x)))


class VggLrn(nn.Module):
    """Local response normalisation and fully connected layers on a flattened map (Krizhevsky et al. 2012; Simonyan and
    Zisserman 2015, arXiv 1409.1556)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.ReLU(),
            nn.LocalResponseNorm(5, 0.1, 0.75, 2.0),
            nn.MaxPool2d(4, 4),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2, 2),
        )
        self.classifier = nn.Sequential(nn.Linear(8 * 16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


class SqueezeExcite(nn.Module):
    """A gate per channel from the whole picture (Hu et al. 2018, arXiv 1709.01507), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite, projection (Howard et al. 2019, arXiv 1905.02244)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        wide = inside * 2
        self.body = nn.Sequential(
            conv_bn(inside, wide, 1),
            nn.Hardswish(),
            conv_bn(wide, wide, 5, stride, wide),
            nn.Hardswish(),
            SqueezeExcite(wide),
            conv_bn(wide, out, 1),
        )
        self.same = stride == 1 and inside == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.same else self.body(x)


class MobileNetV3(nn.Module):
    """HardSwish, squeeze-excite, depthwise convolutions with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.Hardswish())
        self.blocks = nn.Sequential(Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1))
        self.last = nn.Sequential(conv_bn(12, 24, 1), nn.Hardswish())
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 16),
            nn.Hardswish(),
            nn.Dropout(),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.blocks(self.stem(x))))


class ChannelsFirstNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W), written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then linear layers on channels last, a scale per channel (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(functional.gelu(self.wide(y)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patchify, permutes to channels last and back, LayerNorm, LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelsFirstNorm(8))
        self.stages = nn.Sequential(ConvNeXtBlock(8), ChannelsFirstNorm(8), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12))
        self.norm, self.fc = nn.LayerNorm(12, eps=1e-6), nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.stages(self.stem(x)).mean([2, 3])))


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved, then both are shuffled (Ma et al. 2018, arXiv 1807.11164)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1), nn.ReLU(), conv_bn(half, half, 3, 1, half), conv_bn(half, half, 1), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    """Channel split and channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.units = nn.Sequential(ShuffleUnit(8), ShuffleUnit(8))
        self.last = nn.Sequential(conv_bn(8, 12, 1), nn.ReLU())
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.units(self.stem(x))))


class Involution(nn.Module):
    """A kernel for each place, computed from the place (Li et al. 2021, arXiv 2103.06255); neighbourhoods by shifted
    slices, the sum by einsum."""

    def __init__(self, channels: int, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.kernel = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, 9 * groups, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        kernel = self.kernel(x).reshape(n, self.groups, 9, h, w)
        wide = functional.pad(x, (1, 1, 1, 1))
        shifted = torch.stack([wide[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], 2)
        shifted = shifted.reshape(n, self.groups, c // self.groups, 9, h, w)
        return torch.einsum("ngkhw,ngckhw->ngchw", kernel, shifted).reshape(n, c, h, w)


class InvolutionNet(nn.Module):
    """Both factors of an Einsum depend on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 4), nn.ReLU())
        self.involution, self.norm = Involution(8), nn.BatchNorm2d(8)
        self.last = nn.ReLU()
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.last(x + self.norm(self.involution(x))))


class GroupNormNet(nn.Module):
    """Group and instance normalisation (Wu and He 2018, arXiv 1803.08494), weight standardisation, SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(1, 12)])
        self.second, self.third = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.last = nn.SiLU()
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.norms[0](self.stem(x)))
        x = functional.silu(self.norms[1](self.second(x)))
        w = self.third.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        x = self.norms[2](functional.conv2d(x, w, self.third.bias, 1, 1))
        return self.head(self.last(x))
