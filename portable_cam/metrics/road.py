# SPDX-License-Identifier: Apache-2.0
"""ROAD: pixels are taken away by letting their neighbours fill them in, most and least important first.

Each pixel taken away becomes the weighted mean of its eight neighbours, those beside it with weight 1/6, those across
with 1/12, all such equations solved at once, and a little noise is added (Rong et al. 2022, arXiv 2202.00449).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.image.baselines import as_input
from portable_cam.metrics.metric import Array, Case, Map, Measured, Metric
from portable_cam.spelling import installing

#: The shares of the image that are taken away.
SHARES = (0.2, 0.4, 0.6, 0.8)
#: The noise's standard deviation, in parts of the image's.
NOISE = 0.01
_NEIGHBOURS = [(r, c, 1 / 6 if r == 0 or c == 0 else 1 / 12) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]


def require() -> Any:
    """SciPy's sparse matrices.

    Raises:
        OptionError: SciPy is not installed.
    """
    try:
        import scipy.sparse.linalg
    except ImportError:
        raise OptionError(
            f"the metric road needs SciPy, which solves its equations: {installing('evaluate')}"
        ) from None
    return scipy.sparse


def impute(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels filled in from those around them, without noise.

    Args:
        values: (C, H, W).
        known: (H, W), at least one of them true.

    Raises:
        OptionError: SciPy is not installed, or no pixel is known.
    """
    sparse = require()
    if not known.any():
        raise OptionError("nothing is left of the image to fill the missing pixels from: take less of it away")
    missing = np.argwhere(~known)
    if not len(missing):
        return values.copy()
    (height, width), count = known.shape, len(missing)
    number = np.full(known.shape, -1)
    number[~known] = np.arange(count)
    diagonal, right = np.zeros(count), np.zeros((count, len(values)))
    entries: list[tuple[Array, Array, Array]] = []
    for down, across, weight in _NEIGHBOURS:
        r, c = missing[:, 0] + down, missing[:, 1] + across
        rows = np.flatnonzero((r >= 0) & (r < height) & (c >= 0) & (c < width))
        r, c = r[rows], c[rows]
        diagonal[rows] += weight
        there = known[r, c]
        right[rows[there]] += weight * values[:, r[there], c[there]].T
        unknown = rows[~there]
        entries.append((unknown, number[r[~there], c[~there]], np.full(len(unknown), -weight)))
    entries.append((np.arange(count), np.arange(count), diagonal))
    i, j, v = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    matrix = sparse.csc_matrix((v, (i, j)), shape=(count, count))
    solved = sparse.linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    filled = values.copy()
    filled[:, missing[:, 0], missing[:, 1]] = solved.T
    return filled


def _imputed(case: Case, known: NDArray[np.bool_], noise: NDArray[np.float64]) -> Array:
    x = np.moveaxis(case.x[0], case.channel_axis - 1, 0).astype(np.float64)
    filled = impute(x, known) + ~known * noise
    return as_input(np.moveaxis(filled, 0, case.channel_axis - 1), case.x.dtype)


def _road(case: Case, _: str, heat: Map) -> Measured:
    """Half of what is left of the score when the least important is taken away, less that for the most important."""
    ranks, channels = case.ranks(heat), case.x.shape[case.channel_axis]
    noise = case.random(2).standard_normal((channels, *case.size)) * NOISE * case.x.astype(np.float64).std()
    images = []
    for share in SHARES:
        count = round(share * heat.size)
        images += [_imputed(case, ranks >= count, noise), _imputed(case, ranks < heat.size - count, noise)]
    scores = case.score(np.stack(images)).reshape(len(SHARES), 2)
    differences = (scores[:, 1] - scores[:, 0]) / 2
    return Measured(float(differences.mean()), np.stack([np.array(SHARES), differences], axis=1))


road = Metric(
    "road",
    title="ROAD",
    summary="the score without the least important pixels less that without the most important, halved; filled in by "
    "their neighbours",
    paper="Rong et al. 2022, arXiv 2202.00449; combined as by pytorch-grad-cam",
    better="higher",
    measure=_road,
    needs=frozenset({"scipy"}),
)
