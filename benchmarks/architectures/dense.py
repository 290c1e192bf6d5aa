# SPDX-License-Identifier: Apache-2.0
"""Networks of detection and segmentation, with a pooled classifier at the end so that each has a vector of scores."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.convolutional import Head, conv_bn


class UNet(nn.Module):
    """Down and up again, by a transposed convolution and by a bilinear Resize, joined across (Ronneberger et al. 2015,
    arXiv 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv_bn(3, 4), conv_bn(4, 6), conv_bn(6, 8)])
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1)
        self.join = nn.ModuleList([conv_bn(12, 6), conv_bn(10, 8)])
        self.last = nn.ReLU()
        self.head = Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = functional.relu(self.down[0](x))
        half = functional.relu(self.down[1](functional.max_pool2d(full, 2)))
        low = functional.relu(self.down[2](functional.avg_pool2d(half, 2)))
        x = functional.relu(self.join[0](torch.cat([half, self.up(low)], 1)))
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.last(self.join[1](torch.cat([full, x], 1))))


class HRNet(nn.Module):
    """Two resolutions side by side that exchange what they have: a stride down, a nearest or bilinear Resize up (Wang
    et al. 2020, arXiv 1908.07919)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 6, 3, 2), nn.ReLU())
        self.split = conv_bn(6, 8, 3, 2)
        self.high, self.low = conv_bn(6, 6), conv_bn(8, 8)
        self.to_low, self.to_high = conv_bn(6, 8, 3, 2), conv_bn(8, 6, 1)
        self.last = nn.Sequential(conv_bn(14, 12, 1), nn.ReLU())
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        high, low = functional.relu(self.high(x)), functional.relu(self.low(functional.relu(self.split(x))))
        fused = functional.relu(high + functional.interpolate(self.to_high(low), scale_factor=2.0, mode="nearest"))
        small = functional.relu(low + self.to_low(high))
        up = functional.interpolate(small, size=fused.shape[2:], mode="bilinear", align_corners=True)
        return self.head(self.last(torch.cat([fused, up], 1)))


class FocusSpp(nn.Module):
    """Every second pixel to a channel of its own by slices of step 2, and max poolings of three sizes over each other
    (YOLOv5's Focus and SPP; He et al. 2015, arXiv 1406.4729)."""

    def __init__(self) -> None:
        super().__init__()
        self.focus = nn.Sequential(conv_bn(12, 8), nn.SiLU())
        self.down = nn.Sequential(conv_bn(8, 8, 3, 2), nn.SiLU())
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (3, 5, 7))
        self.last = nn.Sequential(conv_bn(32, 12, 1), nn.SiLU())
        self.head = Head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.down(self.focus(torch.cat(corners, 1)))
        return self.head(self.last(torch.cat([x, *(pool(x) for pool in self.pools)], 1)))
