# SPDX-License-Identifier: Apache-2.0
"""The networks: one picture encoder, decoders and question encoders of a few ten thousand weights."""

from __future__ import annotations

import math

import torch
from torch import nn

#: Channels of the features, and how many cells they have.
WIDTH, CELLS = 32, 16 * 16


class Encoder(nn.Module):
    """Pictures (N, 3, 64, 64) of 0 to 1 to features (N, 32, 16, 16), each from 23 x 23 pixels: a cell should know of
    what lies around it, and little of what lies elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for out, stride in ((16, 2), (24, 2), (32, 1), (WIDTH, 1)):
            layers += [nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            inside = out
        self.layers = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(image)
        return features


def sparsity(features: torch.Tensor) -> torch.Tensor:
    """The mean over the root of the mean square, 1 if all are equal: small where few cells hold much (Hoyer 2004).
    Added to the loss, it keeps the model from spreading over empty ground what it knows of a shape."""
    mean, square = features.mean((1, 2, 3)), features.square().mean((1, 2, 3))
    return (mean / (square + 1e-6).sqrt()).mean()


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762), written out so that the exported graph is plain."""

    def __init__(self, query: int, key: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v = nn.Linear(query, width), nn.Linear(key, width), nn.Linear(key, width)
        self.out = nn.Linear(width, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, self.width // self.heads)).transpose(1, 2)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self._split(self.q(x)), self._split(self.k(memory)), self._split(self.v(memory))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.width // self.heads)
        if mask is not None:
            scores = scores + mask
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2)
        out: torch.Tensor = self.out(mixed.flatten(2))
        return out


class Cells(nn.Module):
    """Features (N, C, 16, 16) to a sequence (N, 256, C) with learned places."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(CELLS, WIDTH) * 0.3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.flatten(2).transpose(1, 2) + self.place


class Recurrent(nn.Module):
    """One layer of LSTM or GRU over (N, T, inputs), exported as one ONNX operator whose length T stays open; left to
    itself, the exporter of torch 2.13 stores the example's T."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        self.layer: nn.RNNBase = {"LSTM": nn.LSTM, "GRU": nn.GRU}[kind](inputs, width, batch_first=True)

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The states (N, T, width), and the last of them (1, N, width) (for the LSTM also the cell's)."""
        if torch.compiler.is_exporting():
            return self._as_onnx(x, *state)
        states, last = self.layer(x, (state if self.kind == "LSTM" else state[0]) if state else None)
        return (states, *(last if self.kind == "LSTM" else (last,)))

    def _as_onnx(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # torch's gates are i f g o and r z n, ONNX's are i o f c and z r h
        order = (0, 3, 1, 2) if self.kind == "LSTM" else (1, 0, 2)
        w, r, bw, br = (
            torch.cat([weight[i * self.width : (i + 1) * self.width] for i in order])
            for weight in (
                self.layer.weight_ih_l0,
                self.layer.weight_hh_l0,
                self.layer.bias_ih_l0,
                self.layer.bias_hh_l0,
            )
        )
        last = (1, x.shape[0], self.width)
        states, *rest = torch.onnx.ops.symbolic_multi_out(
            self.kind,
            (x.transpose(0, 1), w[None], r[None], torch.cat([bw, br])[None], None, *state),
            attrs={"hidden_size": self.width, **({"linear_before_reset": 1} if self.kind == "GRU" else {})},
            dtypes=(x.dtype,) * (3 if self.kind == "LSTM" else 2),
            shapes=((x.shape[1], 1, x.shape[0], self.width), *[last] * (2 if self.kind == "LSTM" else 1)),
            version=18,
        )
        return (states.squeeze(1).transpose(0, 1), *rest)


class LstmDecoder(nn.Module):
    """Features and token ids (N, T) to logits (N, T, words): the LSTM's state asks the picture, as in Lu et al. 2017,
    arXiv 1612.01887."""

    def __init__(self, words: int, width: int = 96) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 32)
        self.lstm = Recurrent("LSTM", 32, width)
        self.cells = Cells()
        self.look = Attention(width, WIDTH, 64)
        self.head = nn.Sequential(nn.Linear(width + 64, 96), nn.ReLU(), nn.Linear(96, words))

    def forward(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        state, _, _ = self.lstm(self.words(tokens))
        return self._read(features, state)

    def step(
        self, features: torch.Tensor, token: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One token (N, 1) and the state (1, N, width) to logits (N, 1, words) and the next state."""
        state, h, c = self.lstm(self.words(token), h, c)
        return self._read(features, state), h, c

    def _read(self, features: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.cat([state, self.look(state, self.cells(features))], -1))
        return logits


class TransformerDecoder(nn.Module):
    """Features and token ids (N, T), T up to ``longest``, to logits (N, T, words)."""

    mask: torch.Tensor

    def __init__(self, words: int, longest: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.place = nn.Parameter(torch.randn(longest, width) * 0.1)
        self.cells = Cells()
        self.register_buffer("mask", torch.triu(torch.full((longest, longest), -1e4), 1))
        self.before = nn.ModuleList(Attention(width, width, width) for _ in range(layers))
        self.look = nn.ModuleList(Attention(width, WIDTH, width) for _ in range(layers))
        self.think = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, words))

    def forward(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1]
        x, cells = self.words(tokens) + self.place[:count], self.cells(features)
        for i, (before, look, think) in enumerate(zip(self.before, self.look, self.think, strict=True)):
            own = self.norms[2 * i](x)
            x = x + before(own, own, self.mask[:count, :count])
            x = x + look(self.norms[2 * i + 1](x), cells)
            x = x + think(x)
        logits: torch.Tensor = self.head(x)
        return logits


class RecurrentVqa(nn.Module):
    """A GRU reads the question (N, T) and scales the picture's channels (Perez et al. 2018, arXiv 1709.07871)."""

    def __init__(self, words: int, answers: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.words = nn.Embedding(words, 32)
        self.gru = Recurrent("GRU", 32, 64)
        self.scale, self.shift = nn.Linear(64, WIDTH), nn.Linear(64, WIDTH)
        self.mix = nn.Conv2d(WIDTH, 64, 1)
        self.head = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, answers))

    def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        return self.answer(self.encoder(image), question)

    def answer(self, features: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """Logits (N, answers) from features."""
        read = self.gru(self.words(question))[1][0]
        asked = features * (1 + self.scale(read)[..., None, None]) + self.shift(read)[..., None, None]
        seen = torch.relu(self.mix(asked)).amax((2, 3))
        logits: torch.Tensor = self.head(torch.cat([seen, read], -1))
        return logits


class AttentionVqa(nn.Module):
    """The question's words attend to each other, then to the cells of the picture."""

    def __init__(self, words: int, answers: int, longest: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.words = nn.Embedding(words, 64)
        self.place = nn.Parameter(torch.randn(longest, 64) * 0.1)
        self.cells = Cells()
        self.before, self.look = Attention(64, 64, 64), Attention(64, WIDTH, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(3))
        self.think = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, answers))

    def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        return self.answer(self.encoder(image), question)

    def answer(self, features: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """Logits (N, answers) from features."""
        asked = (question > 0).to(features.dtype)  # 0 is padding
        x = self.words(question) + self.place
        own = self.norms[0](x)
        x = x + self.before(own, own, (asked - 1)[:, None, None] * 1e4)
        x = x + self.look(self.norms[1](x), self.cells(features))
        x = x + self.think(self.norms[2](x))
        weight = asked[..., None]
        logits: torch.Tensor = self.head((x * weight).sum(1) / weight.sum(1))
        return logits
