# SPDX-License-Identifier: Apache-2.0
"""Marks explanations where every object's place is known: the share of words, answers or characters whose map has its
peak on what they name. ``python -m benchmarks.train.mark caption|vqa|ctc [count]`` prints a table of methods, for
captions and answers with both alignments."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.train.files import FOLDER
from benchmarks.train.scenes import draw_scene
from portable_cam.export.layers.placement import Alignment
from portable_cam.tasks.language.caption import CaptionExplainer
from portable_cam.tasks.language.line import LineExplainer
from portable_cam.tasks.language.question import QuestionExplainer

ALIGNMENTS: tuple[Alignment, ...] = ("stretch", "field")
METHODS = ("gradcam", "hirescam", "layercam")
#: Half a cell of the models' 16 x 16 features: a peak stands in the middle of its cell.
NEAR = 2.0
_HELD_OUT = 1_000_000

Marks = dict[str, list[tuple[bool, bool]]]


def mark(maps: NDArray[np.floating], mask: NDArray[np.bool_]) -> tuple[bool, bool]:
    """Whether the peak of a map (H, W) lies on the mask, and whether within half a cell of it."""
    peak = np.unravel_index(int(maps.argmax()), maps.shape)
    rows, columns = np.nonzero(mask)
    return bool(mask[peak]), bool(np.hypot(rows - peak[0], columns - peak[1]).min() <= NEAR)


def captions(count: int) -> None:
    """Content words of the captions of held-out scenes."""
    random = np.random.default_rng(_HELD_OUT)
    scenes = [draw_scene(random) for _ in range(count)]
    for decoder, alignment in itertools.product(("lstm", "transformer"), ALIGNMENTS):
        task = CaptionExplainer(
            FOLDER / "caption_encoder.onnx",
            decoder=FOLDER / f"caption_{decoder}_decoder.onnx",
            vocabulary=FOLDER / "caption_words.txt",
            methods=METHODS,
            alignment=alignment,
            threads=1,
        )
        marks: Marks = defaultdict(list)
        for scene in scenes:
            result = task(scene.pixels, caption=scene.words).result
            for k, named in enumerate(scene.named):
                for method in METHODS if named is not None else ():
                    marks[method].append(mark(result[method][0, k], scene.masks[named]))
        report(f"{decoder}, layer {task.explainer.layer}, {alignment}", marks)


def answers(count: int) -> None:
    """Answers to the test questions of easy-vqa; the object is what differs from the ground."""
    import easy_vqa

    questions, replies, owners = easy_vqa.get_test_questions()
    paths = easy_vqa.get_test_image_paths()
    chosen = np.random.default_rng(0).choice(len(questions), count, replace=False)
    for name, alignment in itertools.product(("vqa_recurrent", "vqa_attention"), ALIGNMENTS):
        task = QuestionExplainer(
            FOLDER / f"{name}.onnx",
            vocabulary=FOLDER / "vqa_words.txt",
            labels=FOLDER / "vqa_answers.txt",
            methods=METHODS,
            explain="image",
            alignment=alignment,
            threads=1,
        )
        marks: Marks = defaultdict(list)
        for i in chosen:
            pixels = np.asarray(Image.open(paths[owners[i]]).convert("RGB"))
            ground = np.median(pixels.reshape(-1, 3), axis=0)
            mask = np.abs(pixels - ground).sum(-1) > 60
            result = task(pixels, replies[i], question=questions[i]).result
            for method in METHODS:
                marks[method].append(mark(result[method][0, 0], mask))
        report(f"{name}, layer {task.explainer.layer}, {alignment}", marks)


def characters(count: int) -> None:
    """Characters of rendered lines, read by PaddleOCR's recogniser; their place is the box of the glyph."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("pip install --no-deps rapidocr-onnxruntime")
    model = Path(spec.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    random = np.random.default_rng(0)
    letters = list("ABCDEFGHJKLMNPQRTUVWXYZabdefghijkmnpqrtuy23456789")
    lines = ["".join(random.choice(letters, 10)) for _ in range(count)]
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    task = LineExplainer(model, methods=METHODS, threads=1)
    marks: Marks = defaultdict(list)
    misread = 0
    for i, text in enumerate(lines):
        face = ImageFont.truetype(str(fonts / ("DejaVuSans.ttf", "DejaVuSerif.ttf")[i % 2]), 30)
        image = Image.new("RGB", (int(face.getlength(text)) + 24, 48), (240, 240, 235))
        draw = ImageDraw.Draw(image)
        draw.text((12, 6), text, font=face, fill=(20, 20, 40))
        explained = task(np.asarray(image))
        if explained.text.strip() != text:
            misread += 1
            continue
        for k, letter in enumerate(text):
            left, top, right, bottom = draw.textbbox((12 + face.getlength(text[:k]), 6), letter, font=face)
            y, x = np.mgrid[: image.height, : image.width]
            box = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
            for method in METHODS:
                marks[method].append(mark(explained.geometry.on_photo(explained.result[method][0, k]), box))
    report(f"layer {task.explainer.layer}, {misread} of {count} lines misread", marks)


def report(what: str, marks: Marks) -> None:
    """Print a row per method."""
    print(what)
    for method, pairs in marks.items():
        on, near = np.mean(pairs, axis=0)
        print(f"  {method:10} on it {on:.1%}, within {NEAR:g} pixels {near:.1%}  ({len(pairs)})", flush=True)


if __name__ == "__main__":
    kind = sys.argv[1]
    how_many = int(sys.argv[2]) if len(sys.argv) > 2 else {"caption": 200, "vqa": 300, "ctc": 20}[kind]
    {"caption": captions, "vqa": answers, "ctc": characters}[kind](how_many)
