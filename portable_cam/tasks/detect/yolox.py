"""YOLOX (Ge et al. 2021, arXiv 2107.08430) as exported without its decoding: (N, cells, 4 + 1 + classes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners, grid

_STRIDES = (8, 16, 32)
# nothing but these stands behind the last convolutions: centre and size are left as the network gives them
_ONLY = frozenset({"Conv", "Sigmoid", "Concat", "Reshape", "Transpose", "Flatten"})


def recognize_head(summary: OutputSummary) -> Head | None:
    """One output with a row for each cell of strides 8, 16 and 32, put together of raw numbers and sigmoids."""
    if len(summary.outputs) != 1:
        return None
    (name, dims), *_ = summary.outputs.items()
    if len(dims) != 3 or dims[1] != summary.cells(_STRIDES) or dims[2] < 6:
        return None
    kinds = [node.op_type for node in summary.behind(name)]
    if not set(kinds) <= _ONLY or kinds.count("Sigmoid") != 2 * len(_STRIDES):
        return None
    return head(name)


def head(name: str) -> Head:
    """The head whose output has this name."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        rows = outputs[name].reshape(-1, outputs[name].shape[-1])
        cells, strides = grid(size, _STRIDES)
        boxes = corners((rows[:, :2] + cells) * strides, np.exp(rows[:, 2:4]) * strides)
        return boxes, rows[:, 4:5] * rows[:, 5:]

    target = Boxes((Columns(name, 5),), (Columns(name, 4, 5),), (Columns(name, 0, 4),), form="cxcywh_log")
    return Head("yolox", target, decode, "yolox", overlap=0.45)
