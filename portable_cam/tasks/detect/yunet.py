"""YuNet, a face detector (Wu et al. 2023, doi 10.1007/s11633-023-1423-y): one class, five key points per face.

The version of 2023 has class, objectness, box and key points per stride, without priors; that of 2021 one row per prior
of box and key points, a softmax over background and face, and the IoU it expects. In both the score of a face is the
square root of the product of its two scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.columns import is_probability
from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners, grid

_STRIDES = (8, 16, 32)
_KEY_POINTS = 10
_FACE = ("face",)
# the priors of 2021: sizes in pixels for each cell of strides 8 to 64, and the variances of centre and size
_PRIOR_STRIDES = (8, 16, 32, 64)
_SIDES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
_VARIANCES = (0.1, 0.2)


def recognize_head(summary: OutputSummary) -> Head | None:
    """For each of strides 8, 16 and 32 two outputs of a probability per cell, one of four numbers and one of ten; or
    outputs of 14, 2 and 1 numbers for each of the priors."""
    return _without_priors(summary) or _with_priors(summary)


def _without_priors(summary: OutputSummary) -> Head | None:
    if len(summary.outputs) != 4 * len(_STRIDES) or any(len(dims) != 3 for dims in summary.outputs.values()):
        return None
    values = {str(value.name): value for value in summary.graph.outputs}
    scales = []
    for stride in _STRIDES:
        of_stride = {n: dims[2] for n, dims in summary.outputs.items() if dims[1] == summary.cells([stride])}
        scores = [n for n, width in of_stride.items() if width == 1 and is_probability(values[n])]
        boxes = [n for n, width in of_stride.items() if width == 4]
        points = [n for n, width in of_stride.items() if width == _KEY_POINTS]
        if (len(scores), len(boxes), len(points), len(of_stride)) != (2, 1, 1, 4):
            return None
        scores.sort(key=lambda name: "obj" in name.lower())  # which is which matters to parts of the score alone
        scales.append((scores[0], scores[1], boxes[0]))
    return head(scales, _STRIDES)


def head(scales: Sequence[tuple[str, str, str]], strides: Sequence[int]) -> Head:
    """The head without priors, with these outputs per stride: class, objectness, box."""

    def joined(outputs: Mapping[str, NDArray[Any]], which: int) -> Floats:
        parts = [outputs[names[which]].reshape(-1, outputs[names[which]].shape[-1]) for names in scales]
        whole: Floats = np.concatenate(parts).astype(np.float32)
        return whole

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        cells, steps = grid(size, strides)
        numbers = joined(outputs, 2)
        boxes = corners((cells + numbers[:, :2]) * steps, np.exp(numbers[:, 2:]) * steps)
        return boxes, _face_score(joined(outputs, 0), joined(outputs, 1))

    def columns(which: int) -> tuple[Columns, ...]:
        return tuple(Columns(names[which]) for names in scales)

    target = Boxes(columns(0), columns(1), columns(2), form="cxcywh_log")
    return Head("yunet", target, decode, "yunet", threshold=0.6, overlap=0.3, labels=_FACE)


def _with_priors(summary: OutputSummary) -> Head | None:
    """The tensors with an axis of images are taken, which the outputs are cut to rows from."""
    by_width = {dims[-1]: value for value in summary.graph.outputs if (dims := known_dims(value)) is not None}
    count = len(priors(summary.size))
    if set(by_width) != {14, 2, 1} or len(summary.outputs) != 3:
        return None
    if any((known_dims(value) or [])[:-1] not in ([count], [1, count], [None, count]) for value in by_width.values()):
        return None
    producer = by_width[2].producer()
    if producer is None or producer.op_type != "Softmax":
        return None
    return with_priors(*(_name(by_width[width]) for width in (2, 1, 14)))


def _name(value: ir.Value) -> str:
    return str(value.name)


def with_priors(conf: str, iou: str, loc: str) -> Head:
    """The head with priors: a softmax over background and face, the IoU expected, and offsets of box and points."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        prior, numbers = priors(size), outputs[loc].reshape(-1, 14)
        scale = np.array([size[1], size[0]], np.float32)
        center = prior[:, :2] + numbers[:, :2] * _VARIANCES[0] * prior[:, 2:]
        extent = prior[:, 2:] * np.exp(numbers[:, 2:4] * _VARIANCES[1])
        scores = _face_score(outputs[conf].reshape(-1, 2)[:, 1:], outputs[iou].reshape(-1, 1))
        return corners(center * scale, extent * scale), scores

    target = Boxes((Columns(conf, 1),), (Columns(iou),))
    return Head("yunet", target, decode, "yunet", threshold=0.6, overlap=0.3, also=(loc,), labels=_FACE)


def priors(size: Size) -> NDArray[np.float32]:
    """The priors of 2021 for an input (H, W): centre and size (A, 4) in fractions of it."""
    height, width = size
    rows, columns = ((side + 1) // 2 // 2 for side in size)  # of stride 4, of which the next are halves
    found = []
    for stride, sides in zip(_PRIOR_STRIDES, _SIDES, strict=True):
        rows, columns = rows // 2, columns // 2
        y, x = np.indices((rows, columns))
        cells = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        centers = np.broadcast_to((cells + 0.5) * stride / (width, height), (rows * columns, len(sides), 2))
        extents = np.broadcast_to(np.array(sides)[:, None] / (width, height), centers.shape)
        found.append(np.concatenate([centers, extents], axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


def _face_score(first: NDArray[Any], second: NDArray[Any]) -> Floats:
    """(A, 1)."""
    score: Floats = np.sqrt(np.clip(first, 0, 1) * np.clip(second, 0, 1)).astype(np.float32)
    return score
