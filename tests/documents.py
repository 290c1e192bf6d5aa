# SPDX-License-Identifier: Apache-2.0
"""The fenced blocks of the documents, and a folder with the files that they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from portable_cam import assets

ROOT = Path(__file__).parents[1]
TRAINED = ROOT / "benchmarks" / "train" / "models"

_FENCE = re.compile(
    r"(?P<before>(?:^[^\n]*\n)?)(?P<indent>^[ ]*)```(?P<language>\w*)\n(?P<body>.*?)^[ ]*```$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- (?P<kind>not run|from|ci): (?P<what>.+?) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Its page, as a path from the root.
        line: The line of its fence.
        language: As it is marked.
        body: Its text, without the indentation of the fence.
        mark: Of the comment before it, if there is one: ``not run`` with a reason, ``from`` with the file that it is an
            excerpt of, ``ci`` for a command that ``.ci/run`` runs.
        what: What the comment says.
    """

    page: str
    line: int
    language: str
    body: str
    mark: str = ""
    what: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, in words, without comments."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    @property
    def files(self) -> set[str]:
        """The stand-ins that it names."""
        return {name for name in STANDINS if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.])", self.body)}


def blocks_of(page: Path, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page."""
    text = page.read_text(encoding="utf-8") if text is None else text
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    for found in _FENCE.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] if line.strip() else line for line in found["body"].splitlines(keepends=True))
        mark = _MARK.search(found["before"].strip())
        kind, what = (mark["kind"], mark["what"]) if mark else ("", "")
        line = text[: found.start("indent")].count("\n") + 1
        yield Block(name, line, found["language"], body, kind, what)


def _zoo(zoo: Path | None, name: str) -> Path | None:
    return None if zoo is None else zoo / "models" / name


#: What a file in the documents is when they run: of the bundled files, of those that are trained here, or of the zoo.
STANDINS = {
    "model.onnx": lambda zoo: assets.model(),
    "large.onnx": lambda zoo: assets.model(),
    "photo.jpg": lambda zoo: assets.photo(),
    "photos/": lambda zoo: assets.photo(),
    "labels.txt": lambda zoo: assets.imagenet_labels(),
    "caption_encoder.onnx": lambda zoo: TRAINED / "caption_encoder.onnx",
    "caption_lstm_decoder.onnx": lambda zoo: TRAINED / "caption_lstm_decoder.onnx",
    "caption_words.txt": lambda zoo: TRAINED / "caption_words.txt",
    "vqa_recurrent.onnx": lambda zoo: TRAINED / "vqa_recurrent.onnx",
    "vqa_words.txt": lambda zoo: TRAINED / "vqa_words.txt",
    "vqa_answers.txt": lambda zoo: TRAINED / "vqa_answers.txt",
    "scene.png": lambda zoo: None,
    "mask.png": lambda zoo: None,
    "boxes.json": lambda zoo: None,
    "yolox_nano.onnx": lambda zoo: _zoo(zoo, "det_yolox_nano_coco_416.onnx"),
    "ultraface.onnx": lambda zoo: _zoo(zoo, "det_ultraface_ssd_rfb320.onnx"),
    "deeplab.onnx": lambda zoo: _zoo(zoo, "seg_deeplabv3_mnv2_dm05_voc_fp32_logits.onnx"),
    "mobilenet_int8.onnx": lambda zoo: _zoo(zoo, "cls_mobilenetv2_torch_int8_nchw_tflm.onnx"),
}
#: Those that only the zoo has.
FROM_ZOO = {name for name, find in STANDINS.items() if name.endswith(".onnx") and find(None) is None}


def furnish(folder: Path, names: set[str], zoo: Path | None) -> None:
    """Put the files of these names into a folder."""
    for name in names:
        target = folder / name
        if name == "scene.png":
            _scene().save(target)
        elif name == "boxes.json":  # where the object is in the photo of photos/
            target.write_text(json.dumps({"cat.jpg": [10, 10, 200, 200]}))
        elif name == "mask.png":
            with Image.open(assets.photo()) as photo:
                Image.new("L", photo.size, 255).save(target)
        else:
            found = STANDINS[name](zoo)
            assert found is not None
            if name.endswith("/"):
                target.mkdir()
                target /= "cat.jpg"
            shutil.copy(found, target)
            sidecar = found.with_suffix(".preprocess.json")
            if sidecar.is_file():
                shutil.copy(sidecar, target.with_suffix(".preprocess.json"))


def _scene() -> Image.Image:
    """A red circle and a yellow square on grey, as the models of captions and questions were trained on."""
    pixels = np.full((64, 64, 3), 200, np.uint8)
    rows, columns = np.mgrid[:64, :64]
    pixels[(rows - 20) ** 2 + (columns - 20) ** 2 < 100] = (220, 30, 30)
    pixels[40:56, 36:52] = (240, 220, 40)
    return Image.fromarray(pixels)
