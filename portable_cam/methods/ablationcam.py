# SPDX-License-Identifier: Apache-2.0
"""Ablation-CAM and Recipro-CAM: what becomes of the score when parts of the layer are set to zero.

Only what lies behind the layer is run again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run


def _ablationcam(run: Run) -> NDArray[Any]:
    """sum_c w_c A_c, w_c = (y - y_c) / |y| for the score y_c with channel c set to zero (equation 3)."""
    behind = run.behind()
    whole = behind.scores(behind.features)[0]
    lost = np.empty((len(behind.maps), len(run.targets)))
    for first, last in run.batches(len(behind.maps)):
        lost[first:last] = whole - behind.scores(behind.without_channels(first, last))
    weights = lost / np.where(whole == 0, 1, np.abs(whole))
    found: NDArray[Any] = np.tensordot(weights.T, behind.maps.astype(np.float64), axes=1)
    return found


def _reciprocam(run: Run, *, width: int = 3) -> NDArray[Any]:
    """For each position the confidence when of the layer only its neighbourhood is left, by a Gaussian window of
    ``width`` cells; 1 for the position alone."""
    behind = run.behind(run.confidence)
    rows, columns = behind.maps.shape[1:]
    found = np.empty((rows * columns, len(run.targets)))
    for first, last in run.batches(rows * columns):
        keep = np.stack([_window(rows, columns, place, width) for place in range(first, last)])
        found[first:last] = behind.scores(behind.only(keep))
    return found.T.reshape(-1, rows, columns)


def _window(rows: int, columns: int, place: int, width: int) -> NDArray[np.float64]:
    row, column = divmod(place, columns)
    down, across = np.abs(np.arange(rows) - row)[:, None], np.abs(np.arange(columns) - column)
    sigma = max(width / 4, 1e-6)  # OpenVINO XAI's kernel of 3 by 3: 1, 1/2 and 1/4 of the middle, nearly
    near = np.maximum(down, across) <= width // 2
    weights: NDArray[np.float64] = np.exp(-(down**2 + across**2) / (2 * sigma**2)) * near
    return weights


ablationcam = PassMethod(
    "ablationcam",
    title="Ablation-CAM",
    summary="the feature map weighted by what the score loses without each channel; no gradient",
    paper="Desai and Ramaswamy 2020, WACV 2020",
    gives="layer",
    cost="for each channel what lies behind the layer",
    compute=_ablationcam,
    signed=True,
)
reciprocam = PassMethod(
    "reciprocam",
    title="Recipro-CAM",
    summary="the confidence when only the surroundings of one position of the layer are left; no gradient",
    paper="Byun and Lee 2022, arXiv 2209.14074",
    gives="layer",
    cost="for each position of the layer what lies behind it",
    compute=_reciprocam,
)
