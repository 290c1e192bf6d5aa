# SPDX-License-Identifier: Apache-2.0
"""Occlusion: what the score loses when a window of the image is covered (Zeiler and Fergus 2014)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run


def windows(size: tuple[int, int], window: int, stride: int) -> list[tuple[slice, slice]]:
    """All places of a window, the last of a row or column cut off at the border; as Captum lays them."""
    starts = [[i * stride for i in range(math.ceil(max(0, n - window) / stride) + 1)] for n in size]
    return [(slice(r, r + window), slice(c, c + window)) for r in starts[0] for c in starts[1]]


def _occlusion(run: Run, *, window: int = 0, stride: int = 0, baseline: str = "mean") -> NDArray[Any]:
    """Each pixel has the mean of what the windows over it take from the score."""
    window = window or max(1, min(run.size) // 8)
    stride = stride or max(1, window // 2)
    if stride > window:
        raise OptionError(f"a stride of {stride} leaves pixels uncovered by a window of {window}: take a smaller one")
    places = windows(run.size, window, stride)
    whole = run.scores(run.x)[0]
    total, covered = np.zeros((len(run.targets), *run.size)), np.zeros(run.size)
    for first, last in run.batches(len(places)):
        keep = np.ones((last - first, *run.size), bool)
        for mask, place in zip(keep, places[first:last], strict=True):
            mask[place] = False
        lost = whole - run.scores(run.masked(keep, baseline))
        for place, each in zip(places[first:last], lost, strict=True):
            total[:, place[0], place[1]] += each[:, None, None]
            covered[place] += 1
    found: NDArray[Any] = total / covered
    return found


occlusion = PassMethod(
    "occlusion",
    title="occlusion",
    summary="what the score loses when a window over the pixel is covered",
    paper="Zeiler and Fergus 2014, arXiv 1311.2901",
    gives="image",
    cost="a forward pass for each place of the window: 225 by default",
    compute=_occlusion,
    signed=True,
)
