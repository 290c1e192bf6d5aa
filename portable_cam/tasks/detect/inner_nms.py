"""Models with non-maximum suppression inside: boxes are traced back to what goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners


def recognize_head(summary: OutputSummary) -> Head | None:
    """A NonMaxSuppression node: its boxes (N, A, 4) and scores (N, C, A) are the raw head."""
    for node in summary.graph:
        if node.op_type == "NonMaxSuppression" and node.domain == "":
            return head(node)
    return None


def head(node: ir.Node) -> Head | None:
    """The head that this node suppresses; None if its inputs are missing or of unknown shape."""
    boxes, scores = node.inputs[:2]
    if boxes is None or scores is None or len(known_dims(scores) or []) != 3:
        return None
    centered = node.attributes.get_int("center_point_box", 0) == 1
    names = str(boxes.name), str(scores.name)

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        found = outputs[names[0]].reshape(-1, 4)
        if centered:
            found = corners(found[:, :2], found[:, 2:])
        else:  # two opposite corners, y first, whichever they are
            first, second = np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])
            found = np.concatenate([first[:, ::-1], second[:, ::-1]], axis=1)
        if np.abs(found).max(initial=0) <= 2:  # fractions of the input, not pixels
            found = found * np.array([size[1], size[0]] * 2, np.float32)
        values = outputs[names[1]]
        return found.astype(np.float32), values.reshape(values.shape[-2:]).T

    target = Boxes(
        (Columns(names[1], layout="columns"),), (), (Columns(names[0]),), form="cxcywh" if centered else "yxyx"
    )
    limits = [_scalar(node, i, default) for i, default in ((3, 0.5), (4, 0.0))]
    return Head("inner_nms", target, decode, None, threshold=max(limits[1], 0.05), overlap=limits[0])


def _scalar(node: ir.Node, index: int, default: float) -> float:
    value = constant_of(node.inputs[index]) if len(node.inputs) > index else None
    return default if value is None else float(np.asarray(value).reshape(-1)[0])
