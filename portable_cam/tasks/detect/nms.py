"""Detections, and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.image.geometry import Box
from portable_cam.tasks.detect.head import Floats

_MOST = 1000  # candidates that enter the suppression, best first: more are noise and cost time squared


@dataclass(frozen=True)
class Detection:
    """A box found: left, top, right, bottom in pixels of the model's input; its class and score, and which of the raw
    boxes it is, of how many classes."""

    box: Box
    label: int
    score: float
    raw: int
    classes: int

    @property
    def index(self) -> int:
        """The index of the target :class:`~portable_cam.export.targets.Boxes`."""
        return self.raw * self.classes + self.label


def iou(box: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of one box (4,) with boxes (A, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - common
    shared: NDArray[np.float64] = common / np.maximum(area, 1e-9)
    return shared


def suppress(boxes: Floats, scores: Floats, threshold: float, overlap: float) -> list[Detection]:
    """Non-maximum suppression within each class: detections, best first.

    Args:
        boxes: (A, 4) as left, top, right, bottom.
        scores: (A, C).
        threshold: The least score.
        overlap: The IoU above which the weaker of two is dropped.
    """
    found, classes = [], scores.shape[1]
    for label in range(classes):
        alive = np.flatnonzero(scores[:, label] >= threshold)
        alive = alive[np.argsort(-scores[alive, label], kind="stable")][:_MOST]
        while len(alive):
            best, alive = alive[0], alive[1:]
            box = tuple(float(v) for v in boxes[best])
            found.append(Detection(box, label, float(scores[best, label]), int(best), classes))  # type: ignore[arg-type]
            alive = alive[iou(boxes[best], boxes[alive]) <= overlap]
    return sorted(found, key=lambda d: -d.score)


def best(boxes: Floats, scores: Floats, label: int) -> Detection:
    """The best-scoring box of a class, whatever its score."""
    raw = int(scores[:, label].argmax())
    box = tuple(float(v) for v in boxes[raw])
    return Detection(box, label, float(scores[raw, label]), raw, scores.shape[1])  # type: ignore[arg-type]
