"""CenterNet-like heads (Zhou et al. 2019, arXiv 1904.07850): a heat map per class, sizes and offsets of the centres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners

_SIZES, _OFFSETS = ("wh", "size", "scale"), ("reg", "off", "offset")


def recognize_head(summary: OutputSummary) -> Head | None:
    """Three grids of one height and width: a heat map that ends in a sigmoid, and two of two channels whose names say
    which of them are sizes and which offsets."""
    grids = {name: dims for name, dims in summary.outputs.items() if len(dims) == 4}
    if len(summary.outputs) != 3 or len(grids) != 3 or len({dims[2:] for dims in grids.values()}) != 1:
        return None
    heat = [n for n in grids if any(node.op_type == "Sigmoid" for node in summary.behind(n))]
    sizes = [n for n in grids if n not in heat and grids[n][1] == 2 and n.lower().split(".")[-1] in _SIZES]
    offsets = [n for n in grids if n not in heat and grids[n][1] == 2 and n.lower().split(".")[-1] in _OFFSETS]
    return head(heat[0], sizes[0], offsets[0]) if len(heat) == len(sizes) == len(offsets) == 1 else None


def head(heat: str, sizes: str, offsets: str) -> Head:
    """The head with these outputs, sizes and offsets in cells."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        scores: Floats = outputs[heat].reshape(outputs[heat].shape[-3:])
        h, w = scores.shape[1:]
        # a centre is a local maximum of 3 x 3: that stands in for non-maximum suppression
        padded = np.pad(scores, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        peaks = sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4)) == scores
        rows, columns = np.indices((h, w))
        shift, extent = (outputs[name].reshape(2, -1).T for name in (offsets, sizes))
        scale = np.array([size[1] / w, size[0] / h], np.float32)
        center = np.stack([columns, rows], axis=-1).reshape(-1, 2) + shift
        boxes = corners(center * scale, extent * scale)
        return boxes, np.where(peaks, scores, 0).reshape(len(scores), -1).T.astype(np.float32)

    target = Boxes((Columns(heat, layout="grid"),))
    return Head("centernet", target, decode, "imagenet", threshold=0.3, overlap=0.7, also=(sizes, offsets))
