"""FastestDet: one grid (N, 1 + 4 + classes, h, w) of objectness, box and class scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, computed_by, corners, sigmoid

# the power of the objectness and of the class in the score, as in the authors' own decoding
_POWERS = (0.6, 0.4)


def recognize_head(summary: OutputSummary) -> Head | None:
    """One output of a grid, joined from a sigmoid of one number, a convolution of four and a softmax."""
    if len(summary.outputs) != 1:
        return None
    (name, dims), *_ = summary.outputs.items()
    join = computed_by(next(iter(summary.graph.outputs)))
    if len(dims) != 4 or dims[1] < 6 or join is None or join.op_type != "Concat" or len(join.inputs) != 3:
        return None
    ends = [computed_by(value) for value in join.inputs]
    if [None if end is None else end.op_type for end in ends] != ["Sigmoid", "Conv", "Transpose"]:
        return None
    return head(name) if any(node.op_type == "Softmax" for node in summary.behind(name)) else None


def head(name: str) -> Head:
    """The head whose output has this name."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        values: Floats = outputs[name].reshape(outputs[name].shape[-3:])
        h, w = values.shape[1:]
        rows, columns = np.indices((h, w))
        center = np.stack([(np.tanh(values[1]) + columns) / w, (np.tanh(values[2]) + rows) / h], axis=-1)
        extent = np.stack([sigmoid(values[3]), sigmoid(values[4])], axis=-1)
        scale = np.array([size[1], size[0]], np.float32)
        boxes = corners(center.reshape(-1, 2) * scale, extent.reshape(-1, 2) * scale)
        scores = values[0][None] ** _POWERS[0] * values[5:] ** _POWERS[1]
        return boxes, scores.reshape(len(scores), -1).T.astype(np.float32)

    target = Boxes((Columns(name, 5, layout="grid"),), (Columns(name, 0, 1, "grid"),))
    return Head("fastestdet", target, decode, "fastestdet", threshold=0.5, overlap=0.45)
