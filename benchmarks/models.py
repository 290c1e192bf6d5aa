"""The models that benchmarks run on: architectures in plain torch with random weights, and files."""

from __future__ import annotations

import torch
from torch import nn


class Bottleneck(nn.Module):
    """He et al. 2016, arXiv 1512.03385, with the stride on the 3x3 convolution as torchvision has it."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        return self.relu3(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 with random weights (He initialisation), 25.6 million parameters."""

    def __init__(self, classes: int = 1000, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages, inside = [], width
        for stage, count in enumerate(blocks):
            rows = []
            for i in range(count):
                rows.append(Bottleneck(inside, width * 2**stage, 2 if stage and i == 0 else 1))
                inside = width * 2**stage * 4
            stages.append(nn.Sequential(*rows))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inside, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.pool(x).flatten(1))


def resnet50(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ResNet50().eval()


class VGG16(nn.Module):
    """Simonyan and Zisserman 2015, arXiv 1409.1556, configuration D; 138 million parameters."""

    def __init__(self, classes: int = 1000, width: int = 64, hidden: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for factor, convolutions in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(inside, width * factor, 3, padding=1), nn.ReLU()]
                inside = width * factor
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(inside * 49, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class MBConv(nn.Module):
    """The block of EfficientNet: expand, depthwise, squeeze and excite, project."""

    def __init__(self, inside: int, out: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        width, squeezed = inside * expand, max(1, inside // 4)
        self.expand: nn.Module = nn.Identity()
        if expand > 1:
            self.expand = nn.Sequential(nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, width, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and inside == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.gate(y))
        return x + y if self.residual else y


class EfficientNetB0(nn.Module):
    """Tan and Le 2019, arXiv 1905.11946, table 1; 5.3 million parameters."""

    def __init__(self, classes: int = 1000, blocks: int = 16) -> None:
        super().__init__()
        rows = [
            (1, 16, 1, 3, 1),
            (6, 24, 2, 3, 2),
            (6, 40, 2, 5, 2),
            (6, 80, 3, 3, 2),
            (6, 112, 3, 5, 1),
            (6, 192, 4, 5, 2),
            (6, 320, 1, 3, 1),
        ]
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU())
        made: list[nn.Module] = []
        inside = 32
        for expand, out, repeats, kernel, stride in rows:
            for i in range(repeats):
                made.append(MBConv(inside, out, expand, kernel, stride if i == 0 else 1))
                inside = out
        self.blocks = nn.Sequential(*made[:blocks])
        inside = 320 if blocks >= len(made) else self.blocks[-1].project[0].out_channels
        self.head = nn.Sequential(nn.Conv2d(inside, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.SiLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))


class ChannelsFirstNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, two linear layers with GELU, LayerScale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.gelu, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(self.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ConvNeXtT(nn.Module):
    """Liu et al. 2022, arXiv 2201.03545, the T of its family; 28.6 million parameters."""

    def __init__(self, classes: int = 1000, depths: tuple[int, ...] = (3, 3, 9, 3), width: int = 96) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for i, depth in enumerate(depths):
            out = width * 2**i
            enter: list[nn.Module] = [nn.Conv2d(3, out, 4, 4), ChannelsFirstNorm(out, eps=1e-6)]
            if i:
                enter = [ChannelsFirstNorm(out // 2, eps=1e-6), nn.Conv2d(out // 2, out, 2, 2)]
            stages.append(nn.Sequential(*enter, *(ConvNeXtBlock(out) for _ in range(depth))))
        self.stages = nn.Sequential(*stages)
        self.pool, self.norm = nn.AdaptiveAvgPool2d(1), nn.LayerNorm(out, eps=1e-6)
        self.fc = nn.Linear(out, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.pool(self.stages(x)).flatten(1)))


def vgg16(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return VGG16().eval()


def efficientnet_b0(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return EfficientNetB0().eval()


def convnext_t(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ConvNeXtT().eval()
