"""SSD heads: a softmax over background and classes per prior box, and the box, decoded in the graph or not.

The priors of an undecoded head are UltraFace's where their number fits; for another model they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners

_DECODES = frozenset({"Exp"})
# UltraFace (github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB): strides and sizes of the priors in pixels
_STRIDES = (8, 16, 32, 64)
_SIDES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
_VARIANCES = (0.1, 0.2)


def recognize_head(summary: OutputSummary) -> Head | None:
    """Two outputs with a row per prior: a softmax over at least two classes, and four numbers."""
    outputs = summary.rows()
    if len(summary.outputs) != 2 or len(outputs) != 2:
        return None
    scores = [n for n in outputs if any(node.op_type == "Softmax" for node in summary.behind(n))]
    boxes = [n for n, dims in outputs.items() if dims[2] == 4 and n not in scores]
    if len(scores) != 1 or len(boxes) != 1 or outputs[scores[0]][1] != outputs[boxes[0]][1]:
        return None
    if any(node.op_type in _DECODES for node in summary.behind(boxes[0])):
        return decoded(scores[0], boxes[0])
    priors = ultraface_priors(summary.size)
    return with_priors(scores[0], boxes[0], priors) if len(priors) == outputs[boxes[0]][1] else None


def decoded(scores: str, boxes: str) -> Head:
    """Boxes as left, top, right, bottom in fractions of the input."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        scale = np.array([size[1], size[0]] * 2, np.float32)
        return outputs[boxes].reshape(-1, 4) * scale, _foreground(outputs[scores])

    target = Boxes((Columns(scores, 1),), (), (Columns(boxes),), form="xyxy")
    return Head("ssd", target, decode, "ultraface", threshold=0.6, overlap=0.3)


def with_priors(
    scores: str, boxes: str, priors: NDArray[Any], variances: Sequence[float] = _VARIANCES, preset: str = "ultraface"
) -> Head:
    """Boxes as offsets from ``priors`` (A, 4), centre and size in fractions of the input (Liu et al. 2016)."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        raw = outputs[boxes].reshape(-1, 4)
        center = priors[:, :2] + raw[:, :2] * variances[0] * priors[:, 2:]
        scale = np.array([size[1], size[0]] * 2, np.float32)
        found = corners(center, priors[:, 2:] * np.exp(raw[:, 2:] * variances[1])) * scale
        return found, _foreground(outputs[scores])

    target = Boxes((Columns(scores, 1),))
    return Head("ssd", target, decode, preset, threshold=0.6, overlap=0.3, also=(boxes,))


def ultraface_priors(size: Size) -> NDArray[np.float32]:
    """UltraFace's priors for an input (H, W): centre and size (A, 4) in fractions of it."""
    height, width = size
    found = []
    for stride, sides in zip(_STRIDES, _SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        for row in range(rows):
            for column in range(columns):
                centre = (column + 0.5) * stride / width, (row + 0.5) * stride / height
                found += [(*centre, side / width, side / height) for side in sides]
    return np.clip(np.array(found, np.float32), 0, 1)


def _foreground(scores: NDArray[Any]) -> Floats:
    """The first class is the background."""
    values: Floats = scores.reshape(-1, scores.shape[-1])[:, 1:]
    return values
