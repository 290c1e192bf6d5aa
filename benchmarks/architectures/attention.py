# SPDX-License-Identifier: Apache-2.0
"""Transformers and hybrids of convolution and attention."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.convolutional import CLASSES, conv_bn


class Attention(nn.Module):
    """Multi-head self-attention over (N, T, C), with an optional bias and mask per head and window."""

    def __init__(self, channels: int, heads: int = 2, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, bias)
        else:
            weights = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
            if bias is not None:
                weights = weights + bias
            y = weights.softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A transformer block with the normalisations before its branches."""

    def __init__(self, channels: int, fused: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels, fused=fused)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) on a grid of 4 x 6 patches.

    ``tokens``: 1 for a class token, 2 for a distillation token beside it (Touvron et al. 2021, arXiv 2012.12877), whose
    heads are averaged, 0 for the mean over the patches. ``registers``: tokens that hold nothing of the picture, put
    between class token and patches (Darcet et al. 2024, arXiv 2309.16588).
    """

    def __init__(
        self, tokens: int = 1, registers: int = 0, channels: int = 16, size: tuple[int, int] = (32, 48)
    ) -> None:
        super().__init__()
        self.tokens, self.registers = tokens, registers
        self.patch = nn.Conv2d(3, channels, 8, 8)
        patches = size[0] // 8 * (size[1] // 8)
        self.prefix = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, channels)) for _ in range(tokens))
        self.position = nn.Parameter(torch.zeros(1, patches + tokens, channels))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, channels)) if registers else None
        self.blocks = nn.ModuleList([Block(channels), Block(channels, fused=True)])
        self.norm = nn.LayerNorm(channels)
        self.heads = nn.ModuleList(nn.Linear(channels, CLASSES) for _ in range(max(1, tokens)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.tokens:
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in self.prefix), x], 1)
        x = x + self.position
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if not self.tokens:
            return self.heads[0](x.mean(1))
        scores = [head(x[:, i]) for i, head in enumerate(self.heads)]
        return scores[0] if len(scores) == 1 else (scores[0] + scores[1]) / 2


def _windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """(N, h, w, C) -> (N * windows, side * side, C)."""
    n, h, w, c = x.shape
    x = x.view(n, h // side, side, w // side, side, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side * side, c)


class SwinBlock(nn.Module):
    """Attention within windows, shifted by a roll in every second block and masked at the seam; a learned bias for each
    offset between two places of a window (Liu et al. 2021, arXiv 2103.14030). Works on (N, h, w, C)."""

    def __init__(self, channels: int, size: int, side: int, shift: int) -> None:
        super().__init__()
        self.size, self.side, self.shift, self.heads = size, side, shift, 2
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, self.heads))
        rows = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        offset = rows[:, :, None] - rows[:, None, :] + side - 1
        self.register_buffer("index", offset[0] * (2 * side - 1) + offset[1])
        self.register_buffer("mask", self._mask() if shift else None)

    def _mask(self) -> torch.Tensor:
        region = torch.zeros(1, self.size, self.size, 1)
        parts = (slice(0, -self.side), slice(-self.side, -self.shift), slice(-self.shift, None))
        for i, rows in enumerate(parts):
            for j, columns in enumerate(parts):
                region[:, rows, columns] = 3 * i + j
        region = _windows(region, self.side).squeeze(-1)
        return (region[:, None] != region[:, :, None]).float() * -100.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        bias = self.table[self.index.view(-1)].view(self.side**2, self.side**2, self.heads).permute(2, 0, 1)[None]
        if self.mask is not None:
            bias = (bias + self.mask[:, None]).repeat(n, 1, 1, 1)
        y = self.attn(_windows(y, self.side), bias)
        y = y.view(n, h // self.side, w // self.side, self.side, self.side, c).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Four neighbours side by side in the channels, then reduced."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Windows, roll, shifted mask and patch merging. ``flat``: (N, h * w, C) between the blocks, as the authors' code
    has it, in place of (N, h, w, C)."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.ModuleList([SwinBlock(8, 8, 4, 0), SwinBlock(8, 8, 4, 2)])
        self.merge = Merge(8)
        self.second = nn.ModuleList([SwinBlock(16, 4, 4, 0)])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def _stage(self, blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            n, h, w, c = x.shape
            x = block(x)
            if self.flat:
                x = x.view(n, h * w, c) * 1.5
                x = x.view(n, h, w, c)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        x = self._stage(self.second, self.merge(self._stage(self.first, x)))
        if self.flat:
            return self.head(self.norm(x.flatten(1, 2)).mean(1))
        return self.head(self.norm(x).mean((1, 2)))


class Hybrid(nn.Module):
    """A convolutional stem whose map becomes tokens, then a map again: CoAtNet and MobileViT in little (Dai et al.
    2021, arXiv 2106.04803; Mehta and Rastegari 2022, arXiv 2110.02178)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU(), conv_bn(8, 12, 3, 2), nn.SiLU())
        self.local, self.attend = conv_bn(12, 12), Block(12)
        self.fuse = nn.Conv2d(24, 16, 3, 2, 1)
        self.block, self.norm, self.head = Block(16), nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        y = self.attend(self.local(x).flatten(2).transpose(1, 2))
        y = y.transpose(1, 2).reshape(n, c, h, w)
        x = self.fuse(torch.cat([x, y], 1))
        return self.head(self.norm(self.block(x.flatten(2).transpose(1, 2))).mean(1))
