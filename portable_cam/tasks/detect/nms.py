"""Detections, and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator
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


def suppress(
    boxes: Floats,
    scores: Floats,
    threshold: float,
    overlap: float,
    *,
    best_only: bool = False,
    across_classes: bool = False,
) -> list[Detection]:
    """Non-maximum suppression within each class: detections, best first.

    Args:
        boxes: (A, 4) as left, top, right, bottom, or (A, C, 4).
        scores: (A, C).
        threshold: The least score.
        overlap: The IoU above which the weaker of two is dropped.
        best_only: A box counts for its best class alone.
        across_classes: Not within each class, but over all of them.
    """
    counts = scores >= threshold
    if best_only:
        counts &= np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    rows, labels = np.nonzero(counts)
    groups = [rows == rows] if across_classes else [labels == label for label in np.unique(labels)]
    found = [d for group in groups for d in _suppressed(boxes, scores, rows[group], labels[group], overlap)]
    return sorted(found, key=lambda d: -d.score)


def _suppressed(
    boxes: Floats, scores: Floats, rows: NDArray[Any], labels: NDArray[Any], overlap: float
) -> Iterator[Detection]:
    order = np.argsort(-scores[rows, labels], kind="stable")[:_MOST]
    rows, labels = rows[order], labels[order]
    while len(rows):
        row, label = int(rows[0]), int(labels[0])
        yield _detection(boxes, scores, row, label)
        keep = iou(boxes_of(boxes, row, label), boxes_of(boxes, rows[1:], labels[1:])) <= overlap
        rows, labels = rows[1:][keep], labels[1:][keep]


def boxes_of(boxes: Floats, rows: Any, labels: Any) -> Floats:
    """The boxes of these rows and classes."""
    found: Floats = boxes[rows] if boxes.ndim == 2 else boxes[rows, labels]
    return found


def _detection(boxes: Floats, scores: Floats, raw: int, label: int) -> Detection:
    left, top, right, bottom = (float(v) for v in boxes_of(boxes, raw, label))
    return Detection((left, top, right, bottom), label, float(scores[raw, label]), raw, scores.shape[1])


def best(boxes: Floats, scores: Floats, label: int) -> Detection:
    """The best-scoring box of a class, whatever its score."""
    return _detection(boxes, scores, int(scores[:, label].argmax()), label)
