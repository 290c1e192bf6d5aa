# SPDX-License-Identifier: Apache-2.0
"""Boxes decoded in the graph and class probabilities as two outputs: YOLO-NAS, PP-YOLOE (Xu et al. 2022, arXiv
2203.16250) and their like, exported without a choice of boxes.

What the numbers of a box are is read from where the boxes lie; see :mod:`portable_cam.tasks.detect.at_rest`.
"""

from __future__ import annotations

from dataclasses import replace

from portable_cam.export.layers.columns import is_probability
from portable_cam.tasks.detect.choices import ClassScores
from portable_cam.tasks.detect.head import Head, OutputSummary
from portable_cam.tasks.detect.inner_nms import raw_head

_STRIDES = (8, 16, 32, 64)
_BOX = 4


def recognize_head(summary: OutputSummary) -> Head | None:
    """Two outputs with a row for each cell of strides 8, 16, 32 and perhaps 64: (N, cells, 4), and the results of
    sigmoids, (N, cells, classes) or (N, classes, cells).

    Raises:
        HeadError: In which order the numbers of a box stand is not known.
    """
    counts = [summary.cells(_STRIDES[:3]), summary.cells(_STRIDES)]
    values = {str(value.name): value for value in summary.graph.outputs}
    rows = summary.rows()
    if len(values) != 2 or len(rows) != 2:
        return None
    boxes = [n for n, dims in rows.items() if dims[1] in counts and dims[2] == _BOX and not is_probability(values[n])]
    scores = [n for n in rows if n not in boxes and is_probability(values[n])]
    if len(boxes) != 1 or len(scores) != 1:
        return None
    count, (name,) = rows[boxes[0]][1], scores
    value, missing = values[name], len(rows[name]) - len(summary.outputs[name])
    axis = 2 if rows[name][1] == count else 1 if rows[name][2] == count else None
    if axis is None:
        return None
    head = raw_head(summary, "apart", values[boxes[0]], ClassScores(value, axis - missing), None)
    return replace(head, preset="yolo", overlap=0.6)
