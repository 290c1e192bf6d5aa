"""NanoDet: class scores and generalised focal distributions of the distances to the four sides, per scale.

Li et al. 2020, arXiv 2006.04388: a side's distance, in strides, is the mean of a softmax over whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, grid

_STRIDES = (8, 16, 32, 64)


def recognize_head(summary: OutputSummary) -> Head | None:
    """As many outputs of class scores as of distributions, a row per cell, one pair for each of the first strides."""
    scales = len(summary.outputs) // 2
    if len(summary.outputs) != 2 * scales or scales not in {3, 4} or any(len(d) != 3 for d in summary.outputs.values()):
        return None
    pairs = []
    for stride in _STRIDES[:scales]:
        names = [name for name, dims in summary.outputs.items() if dims[1] == summary.cells([stride])]
        if len(names) != 2:
            return None
        # the scores have passed a sigmoid, the distributions are as the convolution gives them
        ended = [any(n.op_type == "Sigmoid" for n in summary.behind(name)) for name in names]
        if sorted(ended) != [False, True]:
            return None
        pairs.append((names[ended.index(True)], names[ended.index(False)]))
    if any(summary.outputs[distances][2] % 4 for _, distances in pairs):
        return None
    return head(pairs, _STRIDES[:scales])


def head(pairs: Sequence[tuple[str, str]], strides: Sequence[int]) -> Head:
    """The head with these pairs of outputs, class scores and distributions."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        cells, steps = grid(size, strides)
        scores = np.concatenate([outputs[name].reshape(-1, outputs[name].shape[-1]) for name, _ in pairs])
        raw = np.concatenate([outputs[name].reshape(-1, 4, outputs[name].shape[-1] // 4) for _, name in pairs])
        spread = np.exp(raw - raw.max(axis=2, keepdims=True))
        distance = (spread @ np.arange(raw.shape[2])) / spread.sum(axis=2) * steps
        centers = (cells + 0.5) * steps
        boxes = np.concatenate([centers - distance[:, :2], centers + distance[:, 2:]], axis=1)
        return boxes.astype(np.float32), scores

    target = Boxes(tuple(Columns(name) for name, _ in pairs), (), tuple(Columns(name) for _, name in pairs), form="gfl")
    return Head("nanodet", target, decode, "nanodet")
