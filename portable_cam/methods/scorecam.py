# SPDX-License-Identifier: Apache-2.0
"""Score-CAM: channels weighted by the score of the image masked with them (Wang et al. 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.methods.finish import widened
from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run


def _scorecam(run: Run, *, baseline: str = "zero") -> NDArray[Any]:
    """sum_c w_c A_c, w the softmax over the channels of the scores of x masked with each channel, which is brought to
    the image's size and then to 0 to 1; what is the same everywhere masks all."""
    maps = run.behind().maps.astype(np.float64)
    scores = np.empty((len(maps), len(run.targets)))
    for first, last in run.batches(len(maps)):
        wide = widened(maps[first:last], run.size, run.layer.place, corners=run.profile == "pytorch_grad_cam")
        low = wide.min(axis=(1, 2), keepdims=True)
        span = wide.max(axis=(1, 2), keepdims=True) - low
        masks = (wide - low) / np.where(span > 0, span, 1)
        scores[first:last] = run.scores(run.masked(masks, baseline))
    weights = np.exp(scores - scores.max(axis=0))
    weights /= weights.sum(axis=0)
    found: NDArray[Any] = np.tensordot(weights.T, maps, axes=1)
    return found


scorecam = PassMethod(
    "scorecam",
    title="Score-CAM",
    summary="the feature map weighted by the score of the image masked with each channel; no gradient",
    paper="Wang et al. 2020, arXiv 1910.01279",
    gives="layer",
    cost="a forward pass for each channel of the layer",
    compute=_scorecam,
)
