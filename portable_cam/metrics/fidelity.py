# SPDX-License-Identifier: Apache-2.0
"""Mu-fidelity: whether what the map says of parts of the image is what the score loses without them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portable_cam.metrics.metric import Case, Map, Measured, Metric
from portable_cam.metrics.ranking import rank_correlation

#: The image is divided into so many parts along each side, of which a fifth is taken away at a time.
CELLS = 9
SHARE = 0.2


def _taken(case: Case) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Parts of the image that are kept, (S, H, W), and what the score loses without the others, (S,)."""
    random, count = case.random(6), case.settings.subsets
    rows, columns = (np.arange(n) * min(CELLS, n) // n for n in case.size)
    parts = rows[:, None] * (columns.max() + 1) + columns
    order = random.random((count, parts.max() + 1)).argsort(axis=1).argsort(axis=1)
    keep = (order >= max(1, round(SHARE * (parts.max() + 1))))[:, parts]
    return keep, case.whole - case.score(case.kept(keep))


def _mu_fidelity(case: Case, _: str, heat: Map) -> Measured:
    keep, lost = case.once(("parts", case.baseline), lambda: _taken(case))
    said = np.where(keep, 0, heat).sum(axis=(1, 2))
    return Measured(rank_correlation(said, lost))


mu_fidelity = Metric(
    "mu_fidelity",
    title="mu-fidelity",
    summary="the rank correlation of the map's sum over parts of the image with what the score loses without them",
    paper="Bhatt et al. 2020, arXiv 2005.00631",
    better="higher",
    measure=_mu_fidelity,
    uses_baseline=True,
)
