# SPDX-License-Identifier: Apache-2.0
"""Deletion and insertion: what the score does as the most important pixels are taken away, or given back.

The curve has equal steps from nothing to everything, both ends included, and its area is that of the trapezoids; the
unit is that of the score. What stands in for a pixel is the baseline.
"""

from __future__ import annotations

import numpy as np

from portable_cam.metrics.metric import Case, Map, Measured, Metric


def _curve(case: Case, heat: Map, *, inserted: bool) -> Measured:
    steps = case.settings.steps
    shares = np.linspace(0, 1, steps + 1)
    counts = np.rint(shares * heat.size)
    ranks = case.ranks(heat)
    inner = [(ranks < count) == inserted for count in counts[1:-1]]
    between = case.score(case.kept(np.stack(inner))) if inner else np.empty(0)
    ends = (case.nothing, case.whole) if inserted else (case.whole, case.nothing)
    scores = np.array([ends[0], *between, ends[1]])
    area = float(((scores[1:] + scores[:-1]) / 2 * np.diff(shares)).sum())
    return Measured(area, np.stack([shares, scores], axis=1))


def _deletion(case: Case, _: str, heat: Map) -> Measured:
    return _curve(case, heat, inserted=False)


def _insertion(case: Case, _: str, heat: Map) -> Measured:
    return _curve(case, heat, inserted=True)


deletion = Metric(
    "deletion",
    title="deletion",
    summary="the area below the score as the most important pixels are taken away first",
    paper="Petsiuk et al. 2018, arXiv 1806.07421",
    better="lower",
    measure=_deletion,
    uses_baseline=True,
)
insertion = Metric(
    "insertion",
    title="insertion",
    summary="the area below the score as the most important pixels are given back first",
    paper="Petsiuk et al. 2018, arXiv 1806.07421",
    better="higher",
    measure=_insertion,
    uses_baseline=True,
)
