"""DETR and its like (Carion et al. 2020, arXiv 2005.12872): boxes and classes of queries, which lie nowhere.

Which of the numbers of a box is what, and whether the scores pass a softmax that has a class for "no object", cannot be
read from the graph: a file that says that it is Ultralytics' RT-DETR tells, any other has to be described.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import HeadError
from portable_cam.export.layers.columns import is_linear, is_probability
from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.spelling import option
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners

_BOX = 4


def recognize_head(summary: OutputSummary) -> Head | None:
    """One output (N, queries, 4 + classes) in which one sigmoid makes the box and another the classes, where the file
    says that it is RT-DETR.

    Raises:
        HeadError: It is that, and the file does not say so; or boxes and scores (N, queries, classes) come out apart.
    """
    rows = {name: dims for name, dims in summary.outputs.items() if len(dims) == 3}
    for name, dims in rows.items():
        makers = summary.makers(name) if dims[2] > _BOX else None
        if makers is None or len(makers.values) < 2 or not all(map(is_probability, makers.values)):
            continue
        columns = makers.along(2)
        if len(set(columns[:_BOX])) != 1 or len(set(columns[_BOX:])) != 1 or columns[0] == columns[_BOX]:
            continue
        if summary.file is not None and "rt-detr" in summary.file.family.lower().replace("rtdetr", "rt-detr"):
            return head(name)
        described = {
            "classes": {"tensor": name, "start": _BOX},
            "boxes": {"tensor": name, "stop": _BOX},
            "form": "cxcywh",
            "unit": "fraction",
        }
        raise HeadError(_refusal(summary, described, 'its boxes are "form" cxcywh or xyxy'))
    boxes = [name for name, dims in rows.items() if dims[2] == _BOX and _is_box(summary, name)]
    scores = [name for name, dims in rows.items() if name not in boxes and _is_score(summary, name)]
    if len(boxes) == len(scores) == 1 and rows[boxes[0]][1] == rows[scores[0]][1]:
        described = {
            "classes": {"tensor": scores[0], "stop": rows[scores[0]][2] - 1},
            "boxes": {"tensor": boxes[0]},
            "form": "cxcywh",
            "unit": "fraction",
            "logits": "softmax",
        }
        other = 'with a sigmoid for each class instead (RT-DETR, Deformable DETR), "logits" is "sigmoid" and no "stop"'
        raise HeadError(_refusal(summary, described, f"DETR's last class is no object; {other}"))
    return None


def _is_box(summary: OutputSummary, name: str) -> bool:
    makers = summary.makers(name)
    return makers is not None and all(map(is_probability, makers.values)) and not any(map(is_linear, makers.values))


def _is_score(summary: OutputSummary, name: str) -> bool:
    makers = summary.makers(name)
    return makers is not None and all(is_linear(v) or is_probability(v) for v in makers.values)


def _refusal(summary: OutputSummary, described: Mapping[str, Any], what: str) -> str:
    listing = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    return (
        f"the outputs {listing} look like those of a DETR, whose graph does not tell what the numbers of a box are nor "
        f"what the scores are relative to: say it in a JSON file ({option('head')}), as "
        f"{json.dumps(described)}. Here {what}; "
        'add "preset" for how photos are prepared, docs/tasks.md shows more'
    )


def head(name: str) -> Head:
    """Ultralytics' RT-DETR: centre and size in fractions of the input, then the classes."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        rows = outputs[name].reshape(-1, outputs[name].shape[-1])
        scale = np.array([size[1], size[0]], np.float32)
        return corners(rows[:, :2] * scale, rows[:, 2:_BOX] * scale), rows[:, _BOX:].astype(np.float32)

    target = Boxes((Columns(name, _BOX),), (), (Columns(name, 0, _BOX),), form="cxcywh")
    return Head("rtdetr", target, decode, "unit", threshold=0.35, overlap=1.0)
