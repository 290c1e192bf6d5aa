# SPDX-License-Identifier: Apache-2.0
"""Visual question answering on the data of the PyPI package easy-vqa (MIT): a model with a recurrent question encoder
and one that fuses by attention. ``pip install --no-deps easy-vqa && python -m benchmarks.train.vqa``"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import easy_vqa
import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.train import files, networks

LONGEST = 10
PAD = "<pad>"
IMAGES_PER_STEP = 32
SPARSITY = 0.05


def words_of(question: str) -> list[str]:
    """Lower case, without the question mark."""
    return question.lower().replace("?", " ").split()


def read(part: str, vocabulary: list[str], answers: list[str]) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
    """Pictures (M, 3, 64, 64) of 0 to 1, and for each its questions (Q, T) and answers (Q,)."""
    texts, replies, owners = getattr(easy_vqa, f"get_{part}_questions")()
    paths = getattr(easy_vqa, f"get_{part}_image_paths")()
    pixels = np.stack([np.asarray(Image.open(paths[i]).convert("RGB")) for i in range(len(paths))])
    rows: list[tuple[list[list[int]], list[int]]] = [([], []) for _ in paths]
    for text, reply, owner in zip(texts, replies, owners, strict=True):
        ids = [vocabulary.index(word) for word in words_of(text)]
        rows[owner][0].append(ids + [0] * (LONGEST - len(ids)))
        rows[owner][1].append(answers.index(reply))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images, [(torch.tensor(q).reshape(-1, LONGEST), torch.tensor(a, dtype=torch.long)) for q, a in rows]


def train(model: nn.Module, epochs: int, images: torch.Tensor, rows: list[tuple[torch.Tensor, ...]]) -> None:
    """Every picture once per epoch, with all its questions."""
    steps = epochs * (len(images) // IMAGES_PER_STEP)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    started = time.time()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(IMAGES_PER_STEP):
            if len(batch) < IMAGES_PER_STEP:
                continue
            questions, answers = (torch.cat([rows[i][part] for i in batch]) for part in (0, 1))
            which = torch.cat([torch.full((len(rows[i][1]),), n) for n, i in enumerate(batch)])
            features = model.encoder(images[batch])  # type: ignore[operator]
            logits = model.answer(features[which], questions)  # type: ignore[operator]
            loss = nn.functional.cross_entropy(logits, answers)
            optimizer.zero_grad()
            (loss + SPARSITY * networks.sparsity(features)).backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(images) // IMAGES_PER_STEP)
        print(f"  epoch {epoch + 1}: loss {mean:.4f}, {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, rows: list[tuple[torch.Tensor, ...]]) -> float:
    """The share of questions answered rightly."""
    model.eval()
    right = count = 0
    for image, (questions, answers) in zip(images, rows, strict=True):
        if len(answers):
            features = model.encoder(image[None]).expand(len(answers), -1, -1, -1)  # type: ignore[operator]
            right += int((model.answer(features, questions).argmax(1) == answers).sum())  # type: ignore[operator]
            count += len(answers)
    return right / count


def main(epochs: int = 10) -> None:
    """Train, test and write both."""
    answers = easy_vqa.get_answers()
    questions = easy_vqa.get_train_questions()[0]
    vocabulary = [PAD, *sorted({word for question in questions for word in words_of(question)})]
    images, rows = read("train", vocabulary, answers)
    test_images, test_rows = read("test", vocabulary, answers)
    models: dict[str, Callable[[], nn.Module]] = {
        "vqa_recurrent": lambda: networks.RecurrentVqa(len(vocabulary), len(answers)),
        "vqa_attention": lambda: networks.AttentionVqa(len(vocabulary), len(answers), LONGEST),
    }
    files.FOLDER.mkdir(exist_ok=True)
    files.write_words("vqa_words.txt", vocabulary)
    files.write_words("vqa_answers.txt", answers)
    for name, make in models.items():
        print(name, flush=True)
        torch.manual_seed(0)
        model = make()
        train(model.train(), epochs, images, rows)
        print(f"  {accuracy(model, test_images, test_rows):.2%} of the test questions answered rightly", flush=True)
        files.write_model(
            name,
            model,
            {"image": test_images[:2], "question": test_rows[0][0][:2]},
            ["answer"],
            {"image": {0: "N"}, "question": {0: "N"}},
        )
        files.write_preprocessing(name)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
