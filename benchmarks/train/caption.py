# SPDX-License-Identifier: Apache-2.0
"""Captioning of scenes of coloured shapes: one encoder, an LSTM decoder and a transformer decoder, trained together on
scenes that are drawn as they are needed: ``python -m benchmarks.train.caption``."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

from benchmarks.train import files, networks
from benchmarks.train.scenes import END, LONGEST, PAD, START, VOCABULARY, Scene, draw_scene, token_ids

BATCH = 48
SPARSITY = 0.05
HELD_OUT_SEED = 1_000_000


def tensors(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, 64, 64) of 0 to 1 and captions (N, longest)."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
    return pixels.permute(0, 3, 1, 2).float() / 255, torch.tensor([token_ids(scene) for scene in scenes])


def train(encoder: nn.Module, decoders: dict[str, nn.Module], steps: int) -> None:
    """Both decoders' losses go back into the one encoder."""
    random = np.random.default_rng(0)
    parameters = [p for module in (encoder, *decoders.values()) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    started = time.time()
    for step in range(1, steps + 1):
        images, captions = tensors([draw_scene(random) for _ in range(BATCH)])
        features = encoder(images)
        losses = [
            nn.functional.cross_entropy(
                decoder(features, captions[:, :-1]).transpose(1, 2), captions[:, 1:], ignore_index=VOCABULARY.index(PAD)
            )
            for decoder in decoders.values()
        ]
        optimizer.zero_grad()
        (torch.stack(losses).sum() + SPARSITY * networks.sparsity(features)).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            named = ", ".join(f"{n} {loss.item():.4f}" for n, loss in zip(decoders, losses, strict=True))
            print(f"  step {step}: loss {named}, {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def words_right(encoder: nn.Module, decoder: nn.Module, scenes: list[Scene]) -> float:
    """The share of words of greedily decoded captions that are right, in their places; a missing or extra one is
    wrong."""
    images, _ = tensors(scenes)
    features = encoder(images)
    tokens = torch.full((len(scenes), 1), VOCABULARY.index(START))
    for _ in range(LONGEST - 1):
        tokens = torch.cat([tokens, decoder(features, tokens)[:, -1:].argmax(-1)], 1)
    right = count = 0
    for row, scene in zip(tokens[:, 1:].tolist(), scenes, strict=True):
        said = [VOCABULARY[i] for i in row]
        said = said[: said.index(END)] if END in said else said
        right += sum(a == b for a, b in zip(said, scene.words, strict=False))
        count += max(len(said), len(scene.words))
    return right / count


class Whole(nn.Module):
    """Encoder and decoder in one."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.decoder(self.encoder(image), tokens)
        return logits


class Step(nn.Module):
    """One step of the LSTM decoder, its state in and out."""

    def __init__(self, decoder: networks.LstmDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, features: torch.Tensor, tokens: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.decoder.step(features, tokens, h, c)


def main(steps: int = 1600) -> None:
    """Train, test and write everything."""
    torch.manual_seed(0)
    encoder = networks.Encoder()
    lstm = networks.LstmDecoder(len(VOCABULARY))
    decoders: dict[str, nn.Module] = {
        "lstm": lstm,
        "transformer": networks.TransformerDecoder(len(VOCABULARY), LONGEST),
    }
    train(encoder, decoders, steps)
    for module in (encoder, *decoders.values()):
        module.eval()
    random = np.random.default_rng(HELD_OUT_SEED)
    scenes = [draw_scene(random) for _ in range(1000)]
    for name, decoder in decoders.items():
        print(f"{name}: {words_right(encoder, decoder, scenes):.2%} of the words of held-out scenes right", flush=True)
    write(encoder, lstm, decoders["transformer"], scenes[:2])


def write(encoder: nn.Module, lstm: networks.LstmDecoder, transformer: nn.Module, scenes: list[Scene]) -> None:
    """The ONNX files; ``scenes`` are examples to export with."""
    images, captions = tensors(scenes)
    with torch.no_grad():
        features = encoder(images)
    files.FOLDER.mkdir(exist_ok=True)
    files.write_words("caption_words.txt", VOCABULARY)
    batch, sequence = {0: "N"}, {0: "N", 1: "T"}
    files.write_model("caption_encoder", encoder, {"image": images}, ["features"], {"image": batch})
    files.write_preprocessing("caption_encoder")
    for name, decoder in (("lstm", lstm), ("transformer", transformer)):
        files.write_model(
            f"caption_{name}_decoder",
            decoder,
            {"features": features, "tokens": captions[:, :7]},
            ["logits"],
            {"features": batch, "tokens": sequence},
        )
    files.write_model(
        "caption_lstm",
        Whole(encoder, lstm),
        {"image": images, "tokens": captions[:, :7]},
        ["logits"],
        {"image": batch, "tokens": sequence},
    )
    files.write_preprocessing("caption_lstm")
    h, c = torch.zeros(1, 2, 96), torch.zeros(1, 2, 96)  # one tensor for both would become one input
    files.write_model(
        "caption_lstm_step",
        Step(lstm),
        {"features": features, "tokens": captions[:, :1], "h": h, "c": c},
        ["logits", "h_next", "c_next"],
        {"features": batch, "tokens": batch, "h": {1: "N"}, "c": {1: "N"}},
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
